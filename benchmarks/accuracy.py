"""What an experiment reaches: trains it anew with several seeds and prints a row of the README's table.

python benchmarks/accuracy.py experiments/base_model --seeds 1 2 3
python benchmarks/accuracy.py examples/ner/experiments/wnut17 --metric f1 --splits val test
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


def measure(experiment, seed, folder, splits):
    """Train and evaluate in processes of their own. Returns (metrics of each split, seconds of training)."""
    model_dir = Path(folder) / f"seed_{seed}"
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "train.py", "--model_dir", model_dir, "--from", experiment, f"seed={seed}"],
        cwd=ROOT,
        check=True,
    )
    seconds = time.perf_counter() - start
    for split in splits:
        evaluate = [sys.executable, "evaluate.py", "--model_dir", model_dir, "--split", split]
        subprocess.run(evaluate, cwd=ROOT, check=True)
    return [json.loads((model_dir / f"metrics_{split}_best.json").read_text()) for split in splits], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="experiments/base_model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--metric", default="accuracy")
    parser.add_argument("--splits", nargs="+", default=["test"], choices=["train", "val", "test"])
    args = parser.parse_args()
    beside = (ROOT / args.experiment).parent  # so that it uses the same model/
    with tempfile.TemporaryDirectory(prefix=".accuracy-", dir=beside) as folder:
        results = [measure(args.experiment, seed, folder, args.splits) for seed in args.seeds]
    row = {"experiment": args.experiment, "seeds": " ".join(map(str, args.seeds))}
    for place, split in enumerate(args.splits):
        values = [metrics[place][args.metric] for metrics, _ in results]
        row[f"{split} {args.metric}, mean"] = f"{statistics.mean(values):.4f}"
        row["each" if len(args.splits) == 1 else f"{split}, each"] = " ".join(f"{value:.4f}" for value in values)
    row["seconds of train.py"] = f"{statistics.median(seconds for _, seconds in results):.0f}"
    print(tabulate([row], headers="keys", tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
