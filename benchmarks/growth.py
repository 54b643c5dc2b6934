"""How things grow: seconds, memory and sizes of files as there is ten times more of something, on log-log plots.

python benchmarks/growth.py                                # all of it: five minutes on two cores
python benchmarks/growth.py images --largest 1000000       # a quarter of an hour, and a GB of disk in small files
python benchmarks/growth.py trials --largest 1000          # some five minutes
python benchmarks/growth.py experiments --largest 100000
python benchmarks/growth.py epochs --largest 10000

images        of 28×28 pixels in a dataset: building it, the start of a training, an epoch of a tiny network, memory
trials        in a sweep, each of a single step, and the same command again when all is done
experiments   in the table of synthesize_results.py
logs          steps between two readings of the loss (save_summary_steps)
parameters    of the model: a step beside the bare five lines, the record of an epoch with its checkpoint, the start
epochs        done so far: the next epoch's record and checkpoint

Writes growth.md and growth.png beside this file, of what was asked for.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from curves import FITTED, Point, as_table, plot  # noqa: E402
from tables import make_experiments, measure  # noqa: E402

TINY = {"architecture": "TwoLayerNet", "hidden_size": 16, "learning_rate": 1e-3, "num_epochs": 3, "batch_size": 256}
GRID = {
    "learning_rate": [10 ** -(1 + power / 3) for power in range(10)],
    "hidden_size": list(range(2, 12)),
    "seed": list(range(10)),
    "batch_size": list(range(1000, 1010)),
}


def sizes(first, largest):
    """`first` and its multiples by ten up to `largest`."""
    return [first * 10**power for power in range(20) if power == 0 or first * 10**power <= largest]


def in_a_process(function, *arguments):
    """Call a function of this file in a process of its own. Returns (what it gives, its peak memory in MB)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(with_memory, function, arguments).result()


def with_memory(function, arguments):
    result = function(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def build_digits(count, target, size):
    """Build a dataset of scikit-learn's digits, again and again until there are `count`. Returns the seconds.

    Two corners, which are black, number the repetitions: so no two images are the same.
    """
    from toolkit.datasets.builder import build
    from toolkit.datasets.sources import Item, Source, digits

    source = digits()
    originals = source.load()
    items = []
    for number in range(count):
        repetition, place = divmod(number, len(originals))
        image = originals[place].image.copy()
        image[0, 0], image[-1, 0] = divmod(repetition, 256)
        items.append(Item(originals[place].label, f"{number:07d}", image))
    started = time.perf_counter()
    build(Source(lambda: items, source.classes, 1, (8, 8), source.facts), target, image_size=(size, size))
    return time.perf_counter() - started


def train_epochs(model_dir, data_dir, values):
    """Train as train.py does, each part timed, with an epoch of the bare five lines after each.

    Returns:
        A dict for each epoch: the seconds of "train", "evaluate", "record" and "bare", how many "steps" there were,
        and the "bytes" of last.pth.tar.
    """
    import copy

    import utils
    from evaluate import evaluate
    from toolkit.core.run import Run
    from toolkit.core.setup import set_up
    from train import train

    write_experiment(model_dir, values)
    task, params, data_dir = set_up(model_dir, data_dir, "cpu")
    utils.set_logger(Path(model_dir) / "train.log", terminal=False)
    train_data, val_data = task.fetch_dataloader(["train", "val"], data_dir, params).values()
    model, loss_fn, epochs = task.make_model(params), task.loss_fn(params), []
    optimizer, twin = task.make_optimizer(model, params), copy.deepcopy(model)
    twins_optimizer = task.make_optimizer(twin, params)
    with Run(model, optimizer, params, model_dir) as run:
        for epoch in run.epochs():
            times = [time.perf_counter()]
            train_metrics = train(model, optimizer, loss_fn, train_data, task.metrics, params, run=run)
            times.append(time.perf_counter())
            val_metrics = evaluate(model, loss_fn, val_data, task.metrics, params)
            times.append(time.perf_counter())
            run.record(epoch, train_metrics, val_metrics)
            times.append(time.perf_counter())
            for inputs, labels in train_data:
                loss = loss_fn(twin(inputs), labels)
                twins_optimizer.zero_grad()
                loss.backward()
                twins_optimizer.step()
            times.append(time.perf_counter())
            seconds = (end - start for start, end in itertools.pairwise(times))
            file = Path(model_dir) / "last.pth.tar"
            epochs.append(
                dict(zip(("train", "evaluate", "record", "bare"), seconds, strict=True))
                | {"steps": len(train_data), "bytes": file.stat().st_size}
            )
    return epochs


def write_experiment(folder, values):
    """Make an experiment's folder."""
    Path(folder).mkdir()
    (Path(folder) / "params.json").write_text(json.dumps(TINY | values))


def start(model_dir, data_dir, values):
    """The seconds of `python train.py` for a single step."""
    write_experiment(model_dir, values)
    arguments = ["--model_dir", model_dir, "--data_dir", data_dir, "--max_steps", "1", "--device", "cpu"]
    return measure("train.py", *map(str, arguments))[0]


def images(largest, folder):
    _, empty = in_a_process(build_digits, 30, folder / "30", 28)
    _, training = in_a_process(train_epochs, folder / "training", folder / "30", {})
    for count in sizes(1000, largest):
        data = folder / f"{count}"
        seconds, memory = in_a_process(build_digits, count, data, 28)
        yield "build", "s", count, seconds
        yield "build, above 30 images", "MB", count, memory - empty
        yield "start, first time", "s", count, start(folder / f"first-{count}", data, {})
        yield "start, after that", "s", count, start(folder / f"again-{count}", data, {})
        epochs, memory = in_a_process(train_epochs, folder / f"epochs-{count}", data, {})
        yield "an epoch", "s", count, min(epoch["train"] + epoch["evaluate"] for epoch in epochs)
        yield "training, above 30 images", "MB", count, memory - training
        yield "the pixels", "MB", count, count * 28 * 28 / 2**20
        shutil.rmtree(data)


def trials(largest, folder):
    in_a_process(build_digits, 1000, folder / "digits", 8)
    for count in sizes(10, largest):
        powers = dict(list(GRID.items())[: round(math.log10(count))])  # as many of ten values as give that many trials
        any_rate = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
        for method, space in (("grid", powers), ("tpe", any_rate)):
            sweep = folder / f"{method}-{count}"
            write_experiment(sweep, {"num_epochs": 1, "batch_size": 1000})
            (sweep / "search_space.json").write_text(json.dumps(space))
            command = ["search_hyperparams.py", "--parent_dir", sweep, "--data_dir", folder / "digits"]
            command = [*map(str, command), "--method", method, "--trials", str(count), "--devices", "cpu"]
            yield method, "s", count, measure(*command)[0]
            yield f"{method}, when all is done", "s", count, measure(*command)[0]


def experiments(largest, folder):
    for count in sizes(10, largest):
        parent = folder / f"{count}"
        parent.mkdir()
        make_experiments(parent, count)
        seconds, memory = measure("synthesize_results.py", "--parent_dir", str(parent))
        yield "synthesize_results.py", "s", count, seconds
        yield "synthesize_results.py", "MB", count, memory
        shutil.rmtree(parent)


def logs(largest, folder):
    in_a_process(build_digits, 1000, folder / "digits", 8)
    for count in sizes(1, largest):
        values = {"save_summary_steps": count, "batch_size": 1}
        epochs, _ = in_a_process(train_epochs, folder / f"{count}", folder / "digits", values)
        yield "a step", "ms", count, 1000 * min(epoch["train"] / epoch["steps"] for epoch in epochs)
        yield "the bare five lines", "ms", count, 1000 * min(epoch["bare"] / epoch["steps"] for epoch in epochs)


def parameters(largest, folder):
    in_a_process(build_digits, 1000, folder / "digits", 8)
    for count in sizes(10_000, largest):
        values = {"hidden_size": round(count / (64 + 1 + 10)), "batch_size": 32}
        epochs, _ = in_a_process(train_epochs, folder / f"{count}", folder / "digits", values)
        yield "a step", "s", count, min(epoch["train"] / epoch["steps"] for epoch in epochs)
        yield "the bare five lines", "s", count, min(epoch["bare"] / epoch["steps"] for epoch in epochs)
        yield "record and checkpoint", "s", count, min(epoch["record"] for epoch in epochs)
        yield "start", "s", count, start(folder / f"start-{count}", folder / "digits", values)
        yield "last.pth.tar", "MB", count, epochs[-1]["bytes"] / 2**20


def epochs(largest, folder):
    in_a_process(build_digits, 1000, folder / "digits", 8)
    counts = sizes(10, largest)
    values = {"num_epochs": counts[-1], "batch_size": 1000}
    done, _ = in_a_process(train_epochs, folder / "run", folder / "digits", values)
    for count in counts:
        recent = [epoch["record"] for epoch in done[count - count // 5 : count]]
        yield "record and checkpoint", "s", count, statistics.median(recent)
        yield "last.pth.tar", "MB", count, done[count - 1]["bytes"] / 2**20


WHAT = {  # functions that yield (curve, unit, size, value): what grows, in words, and how far it goes by default
    images: ("images", 100_000),
    trials: ("trials", 100),
    experiments: ("experiments", 10_000),
    logs: ("steps between readings of the loss", 10_000),
    parameters: ("parameters of the model", 10_000_000),
    epochs: ("epochs done", 1000),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {what.__name__: what for what in WHAT}
    parser.add_argument("what", nargs="*", choices=[[], *names], metavar="what", help=f"of {', '.join(names)}")
    parser.add_argument("--largest", type=int, metavar="N", help="go so far, in each")
    parser.add_argument("--output", type=Path, default=HERE, help="the folder for growth.md and growth.png")
    args = parser.parse_args()
    points = []
    for name in args.what or names:
        label, default = WHAT[names[name]]
        with tempfile.TemporaryDirectory() as folder:
            for found in names[name](args.largest or default, Path(folder)):
                points.append(Point(label, *found))
                print(name, *found, file=sys.stderr, flush=True)
    machine = (
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, torch {version('torch')}"
    )
    note = f"The slope is that of the last {FITTED} sizes on log-log axes: 1 is linear, 0 does not grow. On {machine}."
    report = f"{as_table(points)}\n\n{note}\n"
    print(report)
    (args.output / "growth.md").write_text(report, encoding="utf-8")
    plot(points, args.output / "growth.png")


if __name__ == "__main__":
    main()
