"""Taking over what is there: a stack that somebody made by hand, or our own where hosts.toml has moved it. No I/O.

old.py says which containers are concerned, data.py where each datum of theirs goes, plan.py what is done and in which
order, after.py how the host looks between its parts, record.py what is written down first, undo.py the way back.
"""
