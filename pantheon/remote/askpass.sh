#!/bin/sh
# ssh's SSH_ASKPASS under a tunnel. What ssh only tells (a security key waits for a touch) goes to its stderr, where
# pantheon reads it; ssh ends this once the key was touched. What it asks gets no answer: a tunnel asks nothing.
[ "$SSH_ASKPASS_PROMPT" = none ] || exit 1
printf '%s\n' "$1" >&2
exec sleep 120 2>/dev/null
