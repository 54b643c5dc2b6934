"""The code that train.py and evaluate.py need, one small file per concern.

This is the only module that does something when it is imported. It makes two settings, both before torch is imported:

1. GOMP_SPINCOUNT=500: a torch thread that waits for another one spins for microseconds before it sleeps. By default it
   spins for milliseconds, which blocks the core as soon as another process needs it. 300 steps of a small CNN on two
   cores, idle / beside other busy processes, median (slowest) of 5 runs:
   default 0.3 (9.6) / 1.3 (82.6) s; GOMP_SPINCOUNT=500 0.5 (0.5) / 1.8 (4.4) s; OMP_WAIT_POLICY=passive 0.8 (0.9) /
   3.2 (6.9) s. Set either variable yourself to use another value.
2. Ctrl-C while a script imports, which takes seconds, prints one line as it does later (toolkit/core/script.py).
"""

import os
import sys

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "500")


def print_interrupted(kind, error, trace, otherwise=sys.excepthook):
    """Handle an uncaught exception: one line for KeyboardInterrupt, the previous handler for all others."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        otherwise(kind, error, trace)


sys.excepthook = print_interrupted
