"""What whole processes cost: train.py beside CS230's way, its start, its exit, a busy machine, memory. See bench.py."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from beside import comparison, timed
from loops import TINY, VISION
from PIL import Image
from sklearn.datasets import load_sample_images
from subjects import MANY, SIZE, hand_signs, many_pictures, small_digits, write_experiment

from toolkit.datasets.builder import build
from toolkit.datasets.sources import folder

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = 12
# train.py, which ends when its first step is done, without tearing anything down
TO_FIRST_STEP = "import os, train; train.Run.count = lambda *args: os._exit(0); train.run_script(train.main)"
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
PEAK = """
import sys
from toolkit.core.setup import set_up
task, params, data_dir = set_up(sys.argv[1], sys.argv[2], "cpu")
loaders = task.fetch_dataloader(sys.argv[3:], data_dir, params)
for loader in loaders.values():
    for batch in loader:
        pass
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def python(*command):
    """Run Python in the repository's root, and wait. Returns what it printed."""
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def train_py(model_dir, data_dir, *options):
    """The command line of train.py, for an experiment that is begun anew."""
    return "train.py", "--model_dir", model_dir, "--data_dir", data_dir, "--device", "cpu", "--restart", *options


@comparison(
    "a process of 10 epochs of the vision model, start to exit", "CS230's way with its 4 workers", 0.5, warm_up=False
)
def process(place):
    files, data = hand_signs(place)
    model_dir = write_experiment(place / "process", **VISION, num_epochs=10)
    theirs = ["-W", "ignore", "benchmarks/cs230.py", files, place / "process-theirs"]
    yield timed(lambda: python(*train_py(model_dir, data))), timed(lambda: python(*theirs))


@comparison("start of train.py to its first optimizer step", "`import torch` alone", 1.3)
def start(place):
    model_dir, data = write_experiment(place / "start", **TINY), small_digits(place)
    command = ["-c", TO_FIRST_STEP, *train_py(model_dir, data)[1:]]
    alone = "import os, torch; os._exit(0)"  # neither side is torn down
    yield timed(lambda: python(*command)), timed(lambda: python("-c", alone))


@comparison("exit: from the last line of train.py to the end of its process", "one second", 1.0, warm_up=False)
def exit(place):
    model_dir, data = write_experiment(place / "exit", **TINY, num_epochs=2), small_digits(place)

    def after_the_last_line():
        command = [sys.executable, *map(str, train_py(model_dir, data))]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.startswith("Next:"):
                    said = time.perf_counter()
            process.wait()
        return time.perf_counter() - said

    yield after_the_last_line, lambda: 1.0


@comparison(
    "an epoch of the vision model by train.py with one foreign busy process", "on a quiet machine", 1.6, warm_up=False
)
def busy(place):
    _, data = hand_signs(place)
    model_dir = write_experiment(place / "busy", **VISION, num_epochs=1)
    quiet = timed(lambda: python(*train_py(model_dir, data)))

    def disturbed():
        foreign = subprocess.Popen([sys.executable, "-c", BUSY])
        try:
            return quiet()
        finally:
            foreign.kill()
            foreign.wait()

    yield disturbed, quiet


@comparison(f"building from {PHOTOS} JPEGs of 3024×3024 to 64×64", "Pillow's full decode and resize, one by one", 0.15)
def building(place):
    files = place / "photos"
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):  # parts of scikit-learn's two photographs, enlarged, with a sensor's noise: 2 MB each
        photo = Image.fromarray(load_sample_images().images[number % 2])  # 640×427
        left, top = number * 9, number * 5
        path = files / f"{number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        large = np.float32(photo.crop((left, top, left + 300, top + 300)).resize((3024, 3024)))
        large += 4 * rng.standard_normal((3024, 3024, 1), np.float32)
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    paths = sorted(files.rglob("*.jpg"))

    def ours():
        build(folder(files), place / f"built-{time.monotonic_ns()}", image_size=SIZE)

    def theirs():
        for path in paths:
            Image.open(path).convert("RGB").resize(SIZE, Image.Resampling.BILINEAR)

    yield timed(ours), timed(theirs)


@comparison(
    f"memory for {MANY:,} images of 64×64 in RGB, the process aside",
    "the bytes of their pixels",
    1.2,
    unit="MB",
    warm_up=False,
)
def memory(place):
    data = many_pictures(place)
    model_dir = write_experiment(place / "memory", **VISION, cache_above_mb=1e9)
    pixels = MANY * 3 * SIZE[0] * SIZE[1] / 2**20

    def peak(*splits):
        return float(python("-c", PEAK, model_dir, data, *splits))

    yield lambda: peak("train") - peak("test"), lambda: pixels
