"""Kill sweeps and their trials at random, and count what is lost: real processes, real signals.

python benchmarks/sweep_faults.py                     # 30 sweeps of 12 trials; about ten minutes on two cores
python benchmarks/sweep_faults.py --sweeps 2

Each sweep is killed (SIGKILL) a few times at random moments, either the process of one trial or the sweep itself, and
resumed by the same command. Every trial must then be finished exactly once, and all results must equal those of a sweep
that was not killed, to the last bit.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import optuna  # noqa: E402
from optuna.trial import TrialState  # noqa: E402
from project_kinds import differences, outcome  # noqa: E402
from tabulate import tabulate  # noqa: E402

import utils  # noqa: E402
from toolkit.datasets.builder import build  # noqa: E402
from toolkit.datasets.sources import digits  # noqa: E402
from toolkit.sweep.storage import open_storage  # noqa: E402

TRIALS = 12
SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "num_channels": [4, 8], "batch_size": [64, 137]}
PARAMS = {"num_epochs": 4, "checkpoint_minutes": 1e-9}
MOST_KILLS = 4


def start(folder, data):
    """Start or resume the sweep in a folder; return its process."""
    script = ROOT / "search_hyperparams.py"
    command = [sys.executable, str(script), "--parent_dir", str(folder), "--data_dir", str(data)]
    command += ["--method", "random", "--trials", str(TRIALS), "--jobs", "2", "--devices", "cpu", "--retries", "99"]
    with open(folder / "output", "ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def make(folder):
    """Create the folder of a sweep and return it."""
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(PARAMS))
    (folder / "search_space.json").write_text(json.dumps(SPACE))
    return folder


def trial_processes(folder):
    """Return the ids of the processes that are training trials of a sweep now, as a list."""
    found = []
    for lock in folder.glob("*/.lock"):
        try:
            found.append(json.loads(lock.read_text())["pid"])
        except (OSError, ValueError, KeyError):  # released or acquired just now
            continue
    return found


def kill_at_random(folder, process, rng, seconds):
    """Kill a trial or the sweep at a random moment. Return "trial" or "sweep", or None if it ended before that."""
    deadline = time.monotonic() + 60
    while not trial_processes(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, seconds))
    running = trial_processes(folder)
    if process.poll() is not None:
        return None
    if running and rng.random() < 0.5:
        try:
            os.kill(rng.choice(running), signal.SIGKILL)
        except ProcessLookupError:  # it ended just now
            return None
        return "trial"
    process.kill()
    process.wait()
    return "sweep"


def check(folder, undisturbed):
    """Assert that every trial is finished once, with the results that it has in the `undisturbed` sweep."""
    folders = {path.parent.name for path in folder.glob("*/params.json")}
    assert folders == undisturbed.keys(), f"{len(folders)} trials: {sorted(folders ^ undisturbed.keys())}"
    for name in folders:
        sessions = utils.read_json(folder / name / "run.json")["sessions"]
        assert sum("finished" in session for session in sessions) == 1, f"{name} is finished {sessions}"
        assert not list((folder / name).glob("replaced-*")), f"{name} was started over"
        different = differences(outcome(folder / name), undisturbed[name])
        assert not different, f"{name}: {', '.join(different[:5])}"
    storage = open_storage(None, folder)
    (summary,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).get_trials(states=[TrialState.COMPLETE])
    finished = Counter(trial.user_attrs["experiment"] for trial in trials)
    assert finished == dict.fromkeys(folders, 1), f"the study has {finished}"
    for trial in trials:
        best = utils.read_json(folder / trial.user_attrs["experiment"] / "run.json")["best"]["value"]
        assert trial.value == best, f"{trial.user_attrs['experiment']}: {trial.value}, not {best}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, counts, failures = random.Random(args.seed), Counter(), []
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        data = place / "digits"
        build(digits(), data)
        folder = make(place / "undisturbed")
        process = start(folder, data)
        while not trial_processes(folder) and process.poll() is None:
            time.sleep(0.01)
        started = time.monotonic()
        assert process.wait() == 0, (folder / "output").read_text()
        seconds = time.monotonic() - started
        undisturbed = {path.parent.name: outcome(path.parent) for path in folder.glob("*/run.json")}
        assert len(undisturbed) == TRIALS, sorted(undisturbed)
        for number in range(args.sweeps):
            folder = make(place / str(number))
            process = start(folder, data)
            for _ in range(rng.randint(1, MOST_KILLS)):
                killed = kill_at_random(folder, process, rng, seconds / 2)
                counts[killed] += killed is not None
                if process.poll() is not None:
                    process = start(folder, data)
            code = process.wait()
            try:
                assert code == 0, f"ended with {code}:\n{(folder / 'output').read_text()}"
                check(folder, undisturbed)
                shutil.rmtree(folder)
            except AssertionError as error:
                failures.append(f"sweep {number}: {error}")
                print(failures[-1], flush=True)
            counts["trials"] += TRIALS
    row = {
        "sweeps": args.sweeps,
        "trials": counts["trials"],
        "sweeps killed": counts["sweep"],
        "trials killed": counts["trial"],
        "failures": len(failures),
    }
    print(tabulate([row], headers="keys", tablefmt="pipe"))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
