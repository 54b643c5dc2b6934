"""What becomes of a run when things go wrong: counted, for real processes, signals, files and errors.

python benchmarks/faults.py                     # about a quarter of an hour on two cores
python benchmarks/faults.py --kills 10 --write_errors 10 --params 20 --checkpoints 20

kills         a run is killed (SIGKILL) at a random moment, mostly while it writes, gone on with, and must end as the
              run did that was not killed, to the last bit; in between, every file must be readable
write_errors  a call that writes fails with ENOSPC, EIO or EACCES: one line, or a warning; then as above
params        a params.json, mutated by Hypothesis: no traceback, no file changed
checkpoints   a last.pth.tar, mutated likewise
attacks       each way of ATTACKS to get wrong results from a finished run: refused in one line that names the cause
"""

import argparse
import csv
import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from mutations import mutated_checkpoints, mutated_params  # noqa: E402
from PIL import Image  # noqa: E402
from processes import Script  # noqa: E402
from project_kinds import EACH_STEP, differences, outcome, project  # noqa: E402
from tabulate import tabulate  # noqa: E402

import utils  # noqa: E402
from toolkit.core.history import unpacked  # noqa: E402
from toolkit.core.lock import ExperimentLock  # noqa: E402
from toolkit.datasets.builder import build  # noqa: E402
from toolkit.datasets.sources import digits  # noqa: E402

KINDS = {  # what is trained: see tests/project_kinds.py
    "template": ("template", {"batch_size": 137}),
    "classic, 0 workers": ("classic", {"num_workers": 0}),
    "classic, 2 workers": ("classic", {"num_workers": 2}),
    "hard, 0 workers": ("hard", {"num_workers": 0}),
    "hard, 2 workers": ("hard", {"num_workers": 2}),
}
WRITING_CALLS = 400  # about as many as a run makes; each may be the one that fails


class Project:
    """One kind of project, what it gives when nothing goes wrong, and copies of it."""

    def __init__(self, folder, name, data):
        kind, values = KINDS[name]
        self.name, self.folder = name, folder
        folder.mkdir()
        experiment, defaults = project(kind, folder, data)
        experiment.write(**defaults | {"num_epochs": 2, "checkpoint_minutes": EACH_STEP} | values)
        self.data, self.place = experiment.data_dir, experiment.folder.relative_to(folder)
        shutil.copytree(folder, f"{folder}-pristine")
        started = time.monotonic()
        finish(self.arguments(folder))
        self.seconds = time.monotonic() - started
        self.outcome = outcome(experiment.folder)
        self.files = (
            utils.read_checkpoint(experiment.folder / "last.pth.tar")["step"] + 10
        )  # that are written, at least

    def copy(self, folder):
        """A copy in which nothing was trained yet. Returns the experiment's folder in it."""
        shutil.copytree(f"{self.folder}-pristine", folder)
        return folder / self.place

    def arguments(self, folder):
        """The command line that trains the copy in `folder`."""
        return ["--model_dir", folder / self.place, "--data_dir", self.data, "--device", "cpu"]


def finish(arguments):
    """Train to the end."""
    process = Script("train", *arguments)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, ""), f"going on ended with {process.returncode}: {out}\n{err}"


def check_files(folder):
    """Every file in an experiment's folder can be read, and the best checkpoint's metrics are its own."""
    for file in folder.glob("*.pth.tar"):
        utils.read_checkpoint(file)
    for file in folder.glob("*.json"):
        utils.read_json(file)
    for file in folder.glob("*.csv"):
        with open(file) as lines:
            assert len({len(row) for row in csv.reader(lines)}) == 1, f"{file} is cut short"
    for file in folder.glob("*.png"):
        Image.open(file).verify()
    best, metrics = folder / "best.pth.tar", folder / "metrics_val_best_weights.json"
    if metrics.exists():
        row = unpacked(utils.read_checkpoint(best)["history"])[-1]
        written = {f"val_{name}": value for name, value in json.loads(metrics.read_text()).items()}
        assert written.items() <= row.items(), "the metrics of the best checkpoint are of another one"


def check_outcome(project, experiment):
    """What a run gave is what it would have given if nothing had gone wrong."""
    different = differences(outcome(experiment), project.outcome)
    assert not different, f"{len(different)} things are not what they would have been: {', '.join(different[:9])}"


def kill(project, folder, rng):
    """Kill a run once or twice and go on. Returns how often it was killed, and how often while it wrote a file."""
    experiment = project.copy(folder)
    kills = writing = 0
    for _ in range(rng.choice([1, 1, 2])):
        process = Script("train", *project.arguments(folder))
        wait_for_the_moment(process, experiment, rng, project)
        process.kill()
        process.communicate()
        kills += process.returncode == -9
        writing += bool(list(experiment.glob(".*.tmp")))
        check_files(experiment)
    finish(project.arguments(folder))
    check_outcome(project, experiment)
    shutil.rmtree(folder)
    return kills, writing


def wait_for_the_moment(process, experiment, rng, project):
    """Wait for a random time, or for one of the times at which a file is written, and a random bit more."""
    end = time.monotonic() + rng.uniform(0, project.seconds)
    if rng.random() < 0.3:
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.001)
        return
    seen, files = set(), rng.randrange(1, project.files)
    while len(seen) < files and process.poll() is None:
        seen.update((f.name, f.inode()) for f in os.scandir(experiment) if f.name.endswith(".tmp"))
    time.sleep(rng.choice([0, 0, rng.uniform(0, 0.003)]))


def fail_to_write(project, folder, rng):
    """Let a call that writes fail, and go on. Returns the name of the error and the exit code."""
    experiment = project.copy(folder)
    name, once = rng.choice(["ENOSPC", "EIO", "EACCES"]), rng.random() < 0.3
    calls, more = WRITING_CALLS, []
    if rng.random() < 0.3:  # while an earlier run is moved aside
        Script("train", *project.arguments(folder), "--max_steps", 3).communicate()
        calls, more = WRITING_CALLS // 10, ["--restart"]
    fault = (experiment, rng.randrange(calls), getattr(errno, name), once)
    process = Script("train", *project.arguments(folder), *more, fault=fault)
    out, err = process.communicate()
    assert process.returncode in (0, 2), f"exit code {process.returncode} after {fault}: {out}\n{err}"
    assert "Traceback" not in out + err, err
    assert not err or (err.startswith("error: ") and err.count("\n") == 1), err
    check_files(experiment)
    finish(project.arguments(folder))
    check_outcome(project, experiment)
    shutil.rmtree(folder)
    return name, process.returncode


def spoil_weights(change):
    """Return a function that puts other weights into the best checkpoint of an experiment."""

    def spoil(experiment):
        state = utils.read_checkpoint(experiment / "best.pth.tar")
        weights = state["state_dict"]
        weights |= {name: change(weight) for name, weight in weights.items() if weight.is_floating_point()}
        torch.save(state, experiment / "best.pth.tar")

    return spoil


def append_to(file, text):
    """Return a function that appends text to a file beside an experiment."""

    def spoil(experiment):
        with open(experiment.parent / file, "a", encoding="utf-8") as opened:
            opened.write(text)

    return spoil


def change_params(**values):
    """Return a function that changes the params.json of an experiment."""

    def spoil(experiment):
        file = experiment / "params.json"
        file.write_text(json.dumps(utils.read_json(file) | values), encoding="utf-8")

    return spoil


def train_at_the_same_time(experiment):
    """Hold the lock of an experiment under another host's name, and delete what says who holds it."""
    lock = ExperimentLock(experiment)
    lock.acquire()
    (experiment / ".lock").unlink()
    held.append(lock)  # else it is released here


held = []
ATTACKS = {  # name: (what is done to a finished run, the script that is started then, what its line has to name)
    "weights of float64": (spoil_weights(torch.Tensor.double), "evaluate", "torch.float64 there"),
    "weights of integers": (spoil_weights(torch.Tensor.long), "evaluate", "torch.int64 there"),
    "complex weights": (spoil_weights(lambda weight: weight + 0j), "evaluate", "torch.complex64 there"),
    "sparse weights": (spoil_weights(torch.Tensor.to_sparse), "evaluate", "torch.sparse_coo there"),
    "weights without values": (spoil_weights(lambda weight: weight.to("meta")), "evaluate", "without values there"),
    "weights that are NaN": (spoil_weights(lambda weight: weight * torch.nan), "evaluate", "contains NaN"),
    "an edited network": (
        append_to("model/net.py", "\nLIMIT = 3\n"),
        "evaluate",
        "model/net.py: 'LIMIT = 3' was added",
    ),
    "an edited loader": (append_to("model/data_loader.py", "\nLIMIT = 3\n"), "evaluate", "model/data_loader.py: "),
    "another split": (
        change_params(num_folds=5),
        "evaluate --split val",
        "other splits of the data (num_folds 0, ",
    ),
    "an edited network, resumed": (append_to("model/net.py", "\nLIMIT = 3\n"), "train", "--accept_code_changes"),
    "a second training": (train_at_the_same_time, "train", "is training here"),
    "a missing checkpoint": (lambda experiment: (experiment / "best.pth.tar").unlink(), "evaluate", "it has last"),
}


def attack(project, folder):
    """Attack copies of a finished run. Return a list of failures."""
    failures, finished = [], folder / "attacked"
    project.copy(finished)
    finish(project.arguments(finished))
    for name, (spoil, script, message) in ATTACKS.items():
        place = folder / f"attack-{name}"
        shutil.copytree(finished, place)
        spoil(place / project.place)
        script, *options = script.split()
        process = Script(script, *project.arguments(place), *options)
        out, err = process.communicate()
        if (process.returncode, err.count("\n")) != (2, 1) or message not in err:
            failures.append(f"{name}: exit code {process.returncode}: {out}\n{err}")
            print(failures[-1], file=sys.stderr, flush=True)
    return failures


def repeat(what, projects, folder, total, jobs, seed, counts):
    """Call what(project, folder, rng) side by side until counts(results) is `total`. Returns (results, failures)."""
    results, failures, lock, numbers = [], [], threading.Lock(), itertools.count()

    def work():
        while counts(results) < total:
            with lock:
                number = next(numbers)
            project = projects[number % len(projects)]
            try:
                result = what(project, folder / f"{what.__name__}-{number}", random.Random(f"{seed}/{number}"))
                results.append(result)
            except Exception as error:  # whatever it is, it is a finding
                failures.append(f"{what.__name__} {number} ({project.name}): {type(error).__name__}: {error}")
                results.append(None)
                print(failures[-1], file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work) for _ in range(jobs)]:
            future.result()
    return results, failures


def preload(folder):
    """Compile faults.c, and have all processes that are started from now on load it. Returns whether that worked."""
    library = folder / "faults.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler or not sys.platform.startswith("linux"):
        return False
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("kills", 200), ("write_errors", 50), ("params", 500), ("checkpoints", 200)):
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        can_fail_to_write = preload(folder)
        build(digits(), folder / "digits")
        projects = [Project(folder / f"project-{i}", name, folder / "digits") for i, name in enumerate(KINDS)]
        options = {"projects": projects, "folder": folder, "jobs": args.jobs, "seed": args.seed}

        killed = {"total": args.kills, "counts": lambda results: sum(r[0] if r else 1 for r in results)}
        results, found = repeat(kill, **killed, **options)
        failures += found
        done = [result for result in results if result]
        details = f"{sum(writing for _, writing in done)} of them while a file was written; {len(done)} runs identical"
        rows.append(["killed", sum(kills for kills, _ in done), details, len(found)])

        if can_fail_to_write:
            results, found = repeat(fail_to_write, total=args.write_errors, counts=len, **options)
            failures += found
            done = [result for result in results if result]
            kinds = ", ".join(f"{name} {sum(n == name for n, _ in done)}" for name in ("ENOSPC", "EIO", "EACCES"))
            stopped = sum(code == 2 for _, code in done)
            details = f"{kinds}; {stopped} stopped with one line, {len(done) - stopped} went on"
            rows.append(["write errors", len(done), details, len(found)])
        else:
            rows.append(["write errors", 0, "not possible here: needs Linux and a C compiler", 0])

        for name, mutate, total in (
            ("mutated params.json", mutated_params, args.params),
            ("mutated checkpoints", mutated_checkpoints, args.checkpoints),
        ):
            codes, found = mutate(projects[0], folder, total, args.seed)
            failures += found
            details = (
                f"{sum(code == 2 for code in codes)} refused with one line, {sum(code == 0 for code in codes)} valid"
            )
            rows.append([name, len(codes), details, len(found)])
        found = attack(projects[0], folder)
        failures += found
        rows.append(["attacks", len(ATTACKS), f"{len(ATTACKS) - len(found)} refused with one line", len(found)])
    print(tabulate(rows, ["what", "number", "what came of them", "failures"], tablefmt="pipe"))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
