"""What training costs on a GPU, and how much of the GPU it uses; see run.sh.

python benchmarks/gpu/measure.py                         # all; writes results.md beside this file
python benchmarks/gpu/measure.py steps images            # some, by name; prints only
python benchmarks/gpu/measure.py --device cpu --small    # whether it works, where there is no GPU; prints only

The images are random bytes (the speed does not depend on what is on them).
"""

import argparse
import contextlib
import json
import logging
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
sys.path[:0] = [str(ROOT), str(FOLDER.parent)]

import toolkit.core  # noqa: E402, F401  # isort: skip (before torch, for which it sets how threads wait)

import networks  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from beside import Comparison, measure, timed  # noqa: E402
from epochs import epochs_of  # noqa: E402
from hardware import environment, memory_of, peak_of  # noqa: E402
from networks import bare, subject, synchronize, train_once  # noqa: E402
from tabulate import tabulate  # noqa: E402

from toolkit.datasets.builder import build  # noqa: E402
from toolkit.datasets.sources import Item, Source  # noqa: E402
from utils import write_whole  # noqa: E402

TO_FIRST_STEP = """
import os, torch, train
def end(*arguments):
    torch.cuda.is_available() and torch.cuda.synchronize()
    os._exit(0)
train.Run.end_batch = end
train.run_script(train.main)"""
TO_FIRST_TENSOR = "import os, sys, torch; torch.ones(1, device=sys.argv[1]).item(); os._exit(0)"


def rounds(small):
    """How many times each thing is measured."""
    return 1 if small else 5


def spread(values):
    """The median, the lowest and the highest of numbers, as the cells of a row."""
    numbers = [f(values) for f in (statistics.median, min, max)]
    cells = [f"{number:,.0f}" if number >= 100 else f"{number:.3g}" for number in numbers]
    return {"median": cells[0], "lowest": cells[1], "highest": cells[2]}


def steps(place, device, small):
    """Steps a second, as train.py does them in a run, beside the bare five lines over tensors on the device."""
    count = 8 if small else 500  # steps
    cases = {
        "a tiny MLP (784-100-10), batch 32": ((28, 28, 1), {"architecture": "TwoLayerNet"}),
        "base_model's ConvNet, 28×28, batch 32": ((28, 28, 1), {}),
        "base_model's ConvNet, 64×64, batch 32": ((64, 64, 3), {}),
    }
    for number, (what, (shape, values)) in enumerate(cases.items()):

        def two_ways(place, name=f"steps-{number}", shape=shape, values=values):
            both = [
                subject(place / f"{name}-{side}", device, shape, 32 * count, batch_size=32, **values) for side in "ab"
            ]
            with epochs_of(both[0]) as epoch:
                yield epoch, bare(both[1])

        about = Comparison(what, "a bare loop", 1.1, "s", True, contextlib.contextmanager(two_ways))
        result = measure(about, place, rounds(small))
        for side in ("ours", "theirs"):
            yield {
                "what": f"{what}: {'train()' if side == 'ours' else 'a bare loop'}",
                "unit": "steps/s",
                **spread([count / seconds for seconds in getattr(result, side)]),
            }
        yield {
            "what": f"{what}: time of train() by that of a bare loop (aim: 1.1)",
            "unit": "ratio",
            **spread(result.ratios),
        }


def rates_of(ways, count, small):
    """`count` by the seconds that each of `ways`, a dict of functions, takes, in turn. Returns a dict of lists."""
    rates = {name: [] for name in ways}
    for number in range(rounds(small) + 1):
        for name, way in ways.items():
            seconds = way()
            if number:  # the first one warms up
                rates[name].append(count / seconds)
    return rates


def images(place, device, small):
    """Images a second that a ResNet-18 is trained on in bf16: kept on the device, or streamed from a mapped file."""
    for side, count, batch in ((32, 64, 16), (224, 8, 4)) if small else ((32, 51200, 1024), (224, 4096, 256)):
        ways = {}
        for where in ["on the GPU", "in a mapped file"]:
            ours = subject(
                place / f"images-{side}-{where[:2]}",
                device,
                (side, side, 3),
                count,
                network="resnet18",
                mapped=where != "on the GPU",
                batch_size=batch,
                precision="bf16",
            )
            ways[where] = train_once(ours)
        for where, rates in rates_of(ways, count, small).items():
            yield {
                "what": f"resnet18, bf16, {side}×{side}, batch {batch}, data {where}",
                "unit": "images/s",
                **spread(rates),
            }


def peak(place, device, small):
    """The share of the GPU's peak that a ResNet-50 reaches in training, in bf16 and channels_last."""
    count, batch, side = (4, 2, 64) if small else (2048, 256 if memory_of(device) > 40e9 else 64, 224)
    network = "resnet18" if small else "resnet50"
    measured = matmul_rate(device, small)
    known = peak_of(device)
    source = "Nvidia's data sheet" if known else "the matrix product"
    yield {"what": "a bf16 matrix product", "unit": "TFLOP/s", "median": f"{measured / 1e12:.3g}"}
    for compiled in (False, True):
        ours = subject(
            place / f"peak-{compiled}",
            device,
            (side, side, 3),
            count,
            network=network,
            batch_size=batch,
            precision="bf16",
            compile=compiled,
        )
        if not compiled:
            operations = networks.operations_of_a_step(ours) / batch  # for an image, forward and backward
        what = f"{network}, bf16, {side}×{side}, batch {batch}{', compiled' if compiled else ''}"
        try:
            rates = rates_of({"": train_once(ours)}, count, small)[""]
        except Exception as error:  # where there is no compiler
            yield {"what": f"{what}: {type(error).__name__}: {str(error).splitlines()[0][:200]}"}
            continue
        yield {"what": what, "unit": "images/s", **spread(rates)}
        shares = [100 * rate * operations / (known or measured) for rate in rates]
        yield {
            "what": f"{what}, of the peak by {source} ({(known or measured) / 1e12:.3g} TFLOP/s)",
            "unit": "%",
            **spread(shares),
        }


def matmul_rate(device, small):
    """Operations a second of a product of two square bfloat16 matrices."""
    size = 256 if small else 8192
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def ten():
        for _ in range(10):
            one @ other
        synchronize(device)

    return max(rates_of({"": timed(ten)}, 10 * 2 * size**3, small)[""])


def checkpoint(place, device, small):
    """What a checkpoint after each step delays a step of base_model's ConvNet by."""
    count = 4 if small else 50
    ours = subject(place / "checkpoint", device, (64, 64, 3), 32 * count, batch_size=32)
    with epochs_of(ours) as epoch:

        def epoch_with(seconds):
            epoch.run.checkpoints.seconds = seconds  # between two checkpoints
            return epoch()

        epoch_with(1e9)
        pairs = [(epoch_with(1e9), epoch_with(1e-9)) for _ in range(rounds(small))]
    yield {
        "what": "a step of the ConvNet, 64×64, batch 32",
        "unit": "ms",
        **spread([1000 * without / count for without, _ in pairs]),
    }
    yield {
        "what": "delay of such a step by a checkpoint after each",
        "unit": "ms",
        **spread([1000 * (saving - without) / count for without, saving in pairs]),
    }


def start(place, device, small):
    """From the start of train.py's process until its first step is computed."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
    items = [Item(str(n % 10), f"{n:03d}", image) for n, image in enumerate(pixels)]
    build(Source(lambda: items, [str(n) for n in range(10)], 1, (8, 8), {"kind": "noise"}), place / "noise")
    folder = networks.write_experiment(place / "start", architecture="TwoLayerNet")
    train_py = [
        "-c",
        TO_FIRST_STEP,
        "--model_dir",
        folder,
        "--data_dir",
        place / "noise",
        "--device",
        device,
        "--restart",
    ]
    for what, command in {
        "train.py, from its start to the end of its first step": train_py,
        "Python, from its start to the first tensor on the device": ["-c", TO_FIRST_TENSOR, device],
    }.items():
        run = timed(lambda command=command: python(*command))
        yield {"what": what, "unit": "s", **spread([run() for _ in range(rounds(small))])}


def noise(folder, count, shape):
    """A dataset of `count` random images of (height, width, channels), built in `folder`. Returns its path."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    items = [Item(str(n % 10), f"{n:06d}", image) for n, image in enumerate(pixels)]
    build(Source(lambda: items, [str(n) for n in range(10)], shape[2], shape[:2], {"kind": "noise"}), folder)
    return folder


def processes(place, device, small):
    """Images a second of base_model's ConvNet by torchrun, on one GPU and on all of them; where there are several."""
    on_gpu = torch.device(device).type == "cuda"
    most = torch.cuda.device_count() if on_gpu else 2
    if most < 2:
        return
    data = noise(place / "processes-data", 300 if small else 20000, (64, 64, 3))
    for number in (1, most):
        folder = networks.write_experiment(
            place / f"processes-{number}", batch_size=64 if small else 1024, num_epochs=3
        )
        python(
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={number}",
            "train.py",
            "--model_dir",
            folder,
            "--data_dir",
            data,
            "--device",
            device,
        )
        speeds = (folder / "speed.csv").read_text().splitlines()[2:]  # the first epoch warms up
        what = f"base_model's ConvNet, 64×64, in {number} process{'es' if number > 1 else ''} of torchrun"
        yield {"what": what, "unit": "images/s", **spread([float(line.split(",")[1]) for line in speeds])}


def cifar10(place, device, small):
    """The worked example, from the start of train.py to its end, and what it reached; where its data is there."""
    data, example = ROOT / "data" / "cifar10", ROOT / "examples" / "cifar10"
    if small or not data.exists() or not example.exists():
        return
    copy = shutil.copytree(example, place / "cifar10")
    common = ["--model_dir", copy / "experiments" / "base_model", "--data_dir", data, "--device", device]
    seconds = timed(lambda: python("train.py", *common, "--restart"))()
    python("evaluate.py", *common, "--restore_file", "last")
    folder = copy / "experiments" / "base_model"
    training = json.loads((folder / "run.json").read_text())["sessions"][-1]["seconds"]
    accuracy = json.loads((folder / "metrics_test_last.json").read_text())["accuracy"]
    yield {"what": "examples/cifar10: the process of train.py, all in all", "unit": "s", "median": f"{seconds:.1f}"}
    yield {
        "what": "examples/cifar10: its training alone, with an evaluation each epoch",
        "unit": "s",
        "median": f"{training:.1f}",
    }
    yield {"what": "examples/cifar10: test accuracy of the last epoch", "unit": "%", "median": f"{100 * accuracy:.2f}"}


def python(*command):
    """Run Python in the repository's root, and wait."""
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True, capture_output=True)


MEASURES = {function.__name__: function for function in (steps, images, peak, checkpoint, start, processes, cifar10)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of {', '.join(MEASURES)}")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, cpu")
    parser.add_argument("--small", action="store_true", help="so little that it says nothing, but in seconds")
    parser.add_argument("--out", type=Path, help="the file to write; default: results.md, if all was measured on CUDA")
    args = parser.parse_args()
    if unknown := set(args.names) - MEASURES.keys():
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU; --device cpu --small tries whether all works")
    logging.disable(logging.WARNING)  # what the runs say of themselves
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        for name in args.names or MEASURES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += [{"name": name} | row for row in MEASURES[name](Path(place), args.device, args.small)]
    columns = ("name", "what", "median", "lowest", "highest", "unit")
    rows = [{column: row.get(column, "") for column in columns} for row in rows]
    table = tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True)
    how = f"Rounds: {rounds(args.small)}, in turn, after one that warms up. The images are random bytes."
    text = f"{environment(args.device)}\n\n{table}\n\n{how}\n"
    print(text)
    complete = not args.names and not args.small and torch.device(args.device).type == "cuda"
    if args.out or complete:
        write_whole(args.out or FOLDER / "results.md", f"# On a GPU\n\n{text}")


if __name__ == "__main__":
    main()
