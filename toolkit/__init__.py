"""The machinery under the scripts, one small file a concern. A user of the template need not open it."""

import os

# Threads of torch that wait for each other sleep. Turning round and round, they would make training many times slower
# as soon as another process wants a core. It is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
