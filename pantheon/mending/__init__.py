"""Work on the host that no single command does, a program of its own in each file (plan.Mend). Each runs alone, as
root: standard library only, no import of pantheon, its arguments as JSON in sys.argv[1], its progress as lines on
stdout, exit status 0 when it is done. Run again after it was cut short, it finishes what is left."""
