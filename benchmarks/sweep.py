"""Measure how long a sweep takes, compared with CS230's template: one `python train.py` after the other.

python benchmarks/sweep.py                            # 8 trials and 40; about five minutes on two cores
python benchmarks/sweep.py --experiment experiments/dense_net --trials 8

Each trial trains the network of an experiment on the digits for 5 epochs, with a different learning rate.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from toolkit.datasets.builder import build  # noqa: E402
from toolkit.datasets.sources import digits  # noqa: E402

EPOCHS = 5


def timed(*command):
    """Run a Python script; return the seconds that it takes."""
    started = time.monotonic()
    subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def one_after_the_other(folder, data, params, rates):
    """Train with one process per trial, as CS230's template does; return the seconds that it takes."""
    seconds = 0.0
    for rate in rates:
        model_dir = folder / f"learning_rate_{rate}"
        model_dir.mkdir(parents=True)
        (model_dir / "params.json").write_text(json.dumps(params | {"learning_rate": rate}))
        seconds += timed(ROOT / "train.py", "--model_dir", model_dir, "--data_dir", data)
    return seconds


def as_a_sweep(folder, data, params, rates):
    """Train with `search_hyperparams.py`; return the seconds that it takes."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params))
    (folder / "search_space.json").write_text(json.dumps({"learning_rate": rates}))
    seconds = timed(ROOT / "search_hyperparams.py", "--parent_dir", folder, "--data_dir", data)
    assert len(list(folder.glob("*/metrics_val_best_weights.json"))) == len(rates)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[8, 40])
    parser.add_argument("--experiment", default="experiments/base_model")
    args = parser.parse_args()
    params = json.loads((ROOT / args.experiment / "params.json").read_text())
    params = {k: v for k, v in params.items() if k != "$schema"} | {"num_epochs": EPOCHS}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        build(digits(), place / "digits")
        for trials in args.trials:
            rates = [float(f"{rate:.4g}") for rate in np.geomspace(5e-4, 5e-3, trials)]
            sweep = as_a_sweep(place / f"sweep-{trials}", place / "digits", params, rates)
            classic = one_after_the_other(place / f"classic-{trials}", place / "digits", params, rates)
            rows.append(
                {
                    "experiment": args.experiment,
                    "trials": trials,
                    "one after the other, s": classic,
                    "sweep, s": sweep,
                    "ratio": classic / sweep,
                }
            )
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".1f"))


if __name__ == "__main__":
    main()
