"""A made-up sweep of any size, and what a script costs that works on it: seconds and memory. For growth.py."""

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 10


def make_experiments(parent, count):
    """Make the folders of a random search, with files of the sizes that train.py's have."""
    generator = random.Random(0)
    diff = "+ a line of a change that has not been committed\n" * 65  # run.json has 4 KB
    space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "num_channels": [16, 32, 64]}
    (parent / "search_space.json").write_text(json.dumps(space))
    for number in range(count):
        rate, channels = 10 ** generator.uniform(-4, -1), generator.choice([16, 32, 64])
        dropout = generator.uniform(0, 0.8)
        accuracy = 0.95 - 0.1 * abs(3 + (rate > 0.02) - 0.02 * channels**0.5 - dropout) / 3 + generator.gauss(0, 0.01)
        params = {
            "dataset": "digits",
            "learning_rate": rate,
            "num_channels": channels,
            "dropout_rate": dropout,
            "num_epochs": EPOCHS,
            "batch_size": 64,
            "seed": 230,
        }
        curve = [accuracy * (1 - 0.5 / epoch) for epoch in range(1, EPOCHS + 1)]
        history = [
            {
                "epoch": epoch,
                "learning_rate": rate,
                "train_loss": 1 - value,
                "train_accuracy": value,
                "val_loss": 1 - value,
                "val_accuracy": value,
            }
            for epoch, value in enumerate(curve, 1)
        ]
        best = {"epoch": EPOCHS, "monitor": "accuracy", "value": accuracy, "mode": "max"}
        session = {"started": "2026-01-01T00:00:00+00:00", "code": {"uncommitted_diff": diff}}
        session |= {"finished": "2026-01-01T00:10:00+00:00"} if number % 50 else {"failed": "x", "error": "no memory"}
        run = {
            "params": params | {"num_workers": 0, "class_names": list("0123456789"), "mean": [0.5]},
            "best": best,
            "epochs": EPOCHS,
            "steps": 1000,
            "sessions": [session],
        }
        folder = parent / f"learning_rate={rate:.6g},num_channels={channels},trial={number}"
        folder.mkdir()
        (folder / "params.json").write_text(json.dumps(params, indent=4))
        (folder / "run.json").write_text(json.dumps(run, indent=2))
        (folder / "metrics_val_best_weights.json").write_text(json.dumps({"loss": 1 - accuracy, "accuracy": accuracy}))
        for name in ("train.log", "best.pth.tar", "last.pth.tar", "curves.png"):
            (folder / name).write_bytes(b"")
        with open(folder / "history.csv", "w", encoding="utf-8") as file:
            writer = csv.DictWriter(file, history[0])
            writer.writeheader()
            writer.writerows(history)


def measure(*command):
    """Run python in a process of its own. Returns (seconds, peak memory in MB)."""
    code = f"""
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, cwd={str(ROOT)!r})
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""  # the peak of all children is kept for a process: so one in between for each
    done = subprocess.run([sys.executable, "-c", code, sys.executable, *command], check=True, stdout=subprocess.PIPE)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory / (2**20 if sys.platform == "darwin" else 2**10)
