"""The machinery under the scripts, one small file a concern. A user of the template need not open it."""

import os

# Threads of torch that wait for each other turn round and round, by default for milliseconds, which makes training many
# times slower as soon as another process wants a core. To sleep at once (OMP_WAIT_POLICY=passive) makes a small model
# three times slower on a quiet machine. This is some microseconds, between the two. It is read when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "500")
