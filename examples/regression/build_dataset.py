"""Build a dataset for regression: data/<name>/{train,val,test}.csv in this folder, and dataset.json.

    python examples/regression/build_dataset.py sine                    # 32 noisy points of a sine
    python examples/regression/build_dataset.py diabetes                # scikit-learn's 442 patients
    python examples/regression/build_dataset.py csv houses.csv --target price

A table of your own starts with a line of column names; all other lines are numbers, separated by commas. It is split
60/20/20. Then name the dataset in params.json: "dataset": "<name>".
"""

import argparse
import csv
import hashlib
import json
import logging
import math
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent / "../.."))  # the repository, for utils and toolkit
import utils
from model.data_loader import digest, read_columns, read_csv
from toolkit.core.image_dataset import FACTS, SPLITS
from toolkit.core.script import run_script
from toolkit.datasets.dataset_folder import add_build_arguments, already_built, target_folder, write_folder
from utils import UserError

DATA = Path(__file__).resolve().parent / "data"
LARGEST = 1e30  # number in a table; float32 ends at 3e38
FEWEST_ROWS = 10  # different rows that a table needs to be split in three


def sine(noise, seed):
    """Return points (x, sin x) for x from -π to π: 32 with noise for train, 32 for val, and 200 without noise for test.

    Args:
        noise: standard deviation of the noise that is added to y.
        seed: int.

    Returns:
        (names, tables): names of the columns, the target last; dict from split to float64 array (N, 2).
    """
    generator = np.random.default_rng(seed)
    tables = {}
    for split in ("train", "val"):
        x = np.sort(generator.uniform(-np.pi, np.pi, 32))  # (32,)
        tables[split] = np.stack([x, np.sin(x) + noise * generator.standard_normal(32)], axis=1)  # (32, 2)
    x = np.linspace(-np.pi, np.pi, 200)  # (200,)
    return ["x", "y"], tables | {"test": np.stack([x, np.sin(x)], axis=1)}


def diabetes(seed):
    """Return data of 442 patients as (names, tables), like `sine`: age, sex, body mass index, blood pressure, six blood
    values, and the progression of the disease after a year (Efron et al., "Least Angle Regression", 2004).
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    names = [*bunch.feature_names, "progression"]
    return names, split_rows(np.column_stack([bunch.data, bunch.target]), seed)


def from_csv(path, target, ignore, seed):
    """Return the table in a CSV file as (names, tables), like `sine`.

    Args:
        path: the file.
        target: name of the column to predict.
        ignore: names of columns to leave out.
        seed: seed of the random split.

    Raises:
        UserError: a column is missing, or a value is not a number or too large; names line and column.
    """
    header, _ = read_csv(path)
    for name in [target, *ignore]:
        if name not in header:
            there = f"separated by commas there are {', '.join(header) or 'none'}"
            raise UserError(f"{path}, line 1: there is no column {name!r}; {there}")
    names = [*(name for name in header if name not in (target, *ignore)), target]
    if len(names) == 1:
        raise UserError(f"{path}, line 1: there is no column besides {target!r} to predict it from")
    rows = [row for _, row in read_columns(path, names)]
    distinct = len(set(map(tuple, rows)))
    if distinct < FEWEST_ROWS:
        raise UserError(f"{path}: has {distinct} different rows below the header; it needs at least {FEWEST_ROWS}")
    largest = np.abs(rows).max(axis=0)  # (columns,)
    if largest.max() > LARGEST:
        raise UserError(f"{path}: column {names[largest.argmax()]} has numbers above {LARGEST:g}; scale or ignore it")
    return names, split_rows(np.array(rows), seed)


def split_rows(table, seed):
    """Split the rows of a table, (N, columns), 60/20/20 at random; equal rows stay together.

    Returns:
        dict from split to array.
    """
    _, group = np.unique(table, axis=0, return_inverse=True)
    order = np.random.default_rng(seed).permutation(group.max() + 1)[group.reshape(-1)]  # (N,) a place for each row
    share = max(1, round((group.max() + 1) / 5))
    where = {"test": order < share, "val": (order >= share) & (order < 2 * share), "train": order >= 2 * share}
    return {split: table[where[split]] for split in SPLITS}


def describe(names, tables, recipe):
    """Return the content of dataset.json, a dict.

    Raises:
        UserError: the target is constant.
    """
    mean, std = tables["train"].mean(axis=0), tables["train"].std(axis=0)  # (columns,) each
    is_constant = np.ptp(tables["train"], axis=0) == 0  # (columns,)
    if is_constant[-1]:
        raise UserError(f"the target {names[-1]} is {mean[-1]:g} in all rows of train: there is nothing to predict")
    std[is_constant] = 1
    counts = {split: {"rows": len(tables[split]), "sha256": digest(tables[split])} for split in SPLITS}
    return {
        "input_names": names[:-1],
        "target_name": names[-1],
        "num_inputs": len(names) - 1,
        "mean": mean[:-1].tolist(),
        "std": std[:-1].tolist(),
        "target_mean": float(mean[-1]),
        "target_std": float(std[-1]),
        "counts": counts,
        "fingerprint": hashlib.sha256(json.dumps([names, counts]).encode()).hexdigest(),
        "source": recipe,
    }


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["sine", "diabetes", "csv"], help="where the rows come from")
    parser.add_argument("path", nargs="?", help="with `csv`: the file")
    parser.add_argument("--target", metavar="COLUMN", help="with `csv`: the column to predict")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="COLUMN", help="with `csv`: columns to leave out")
    parser.add_argument(
        "--noise", type=float, default=0.1, help="with `sine`: standard deviation of noise (default: 0.1)"
    )
    add_build_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    given = [args.path is not None, args.target is not None]
    if not all(given) if args.source == "csv" else any([*given, args.ignore]):
        raise UserError("`csv`, and only `csv`, takes a file and --target: build_dataset.py csv FILE --target COLUMN")
    if not 0 <= args.noise < math.inf:
        raise UserError(f"--noise is {args.noise}; give a finite number of at least 0")
    target = target_folder(args, DATA, Path(args.path).stem if args.path else args.source)
    if args.source == "sine":
        names, tables = sine(args.noise, args.seed)
    elif args.source == "diabetes":
        names, tables = diabetes(args.seed)
    else:
        names, tables = from_csv(args.path, args.target, args.ignore, args.seed)
    recipe = {key: value for key, value in vars(args).items() if key not in ("name", "force", "quiet")}
    facts = describe(names, tables, recipe)
    if already_built(target, recipe, args.force, facts["fingerprint"]):
        return
    header = [" ".join(name.split()) for name in names]  # on one line
    with write_folder(target) as folder:
        for split, table in tables.items():
            with open(folder / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([header, *table.tolist()])
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    rows = ", ".join(f"{count['rows']} {split}" for split, count in facts["counts"].items())
    logging.info("%s: %s from %s; %s rows", target, names[-1], ", ".join(names[:-1]), rows)
    logging.info('To train on it, set "dataset": %s in params.json', json.dumps(target.name))


if __name__ == "__main__":
    run_script(main)
