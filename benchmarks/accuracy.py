"""What an experiment reaches: trains it anew with several seeds and prints a row of the README's table.

python benchmarks/accuracy.py experiments/base_model --seeds 1 2 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent


def measure(experiment, seed, folder):
    """Train and evaluate in processes of their own. Returns (test accuracy, seconds of the training process)."""
    model_dir = Path(folder) / f"seed_{seed}"
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "train.py", "--model_dir", model_dir, "--from", experiment, f"seed={seed}"],
        cwd=ROOT,
        check=True,
    )
    seconds = time.perf_counter() - start
    subprocess.run([sys.executable, "evaluate.py", "--model_dir", model_dir], cwd=ROOT, check=True)
    return json.loads((model_dir / "metrics_test_best.json").read_text())["accuracy"], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="experiments/base_model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(args.experiment, seed, folder) for seed in args.seeds]
    accuracies = [accuracy for accuracy, _ in results]
    row = {
        "experiment": args.experiment,
        "seeds": " ".join(map(str, args.seeds)),
        "test accuracy, mean": f"{statistics.mean(accuracies):.4f}",
        "each": " ".join(f"{accuracy:.4f}" for accuracy in accuracies),
        "seconds of train.py": f"{statistics.median(seconds for _, seconds in results):.0f}",
    }
    print(tabulate([row], headers="keys", tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
