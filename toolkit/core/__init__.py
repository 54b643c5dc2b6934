"""The machinery under the scripts, one small file a concern. A user of the template need not open it."""

import os
import sys

# Threads of torch that wait for each other turn round and round, by default for milliseconds, which makes training many
# times slower as soon as another process wants a core. To sleep at once (OMP_WAIT_POLICY=passive) makes a small model
# three times slower on a quiet machine. This is some microseconds, between the two. It is read when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "500")


def say_interrupted(kind, error, trace, otherwise=sys.excepthook):
    """Say of Ctrl-C while a script still imports, which takes a second or two, what `run_script` says later."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        otherwise(kind, error, trace)


sys.excepthook = say_interrupted
