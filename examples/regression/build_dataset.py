"""Make a dataset for regression: data/<name>/{train,val,test}.csv beside this file, and dataset.json with what it is.

    python examples/regression/build_dataset.py sine                    # 32 noisy points of a sine
    python examples/regression/build_dataset.py diabetes                # scikit-learn's 442 patients
    python examples/regression/build_dataset.py csv houses.csv --target price
    python examples/regression/build_dataset.py --audit examples/regression/data/houses

A table of your own has a line with the names of its columns, and then numbers only, separated by commas. It is split
60/20/20. Then name the dataset in params.json: "dataset": "<name>".
"""

import argparse
import csv
import hashlib
import io
import json
import logging
import math
import sys
from pathlib import Path

import numpy as np

# the repository, for utils and toolkit; last, so that nothing of it hides what is beside this file
sys.path.append(str(next(folder for folder in Path(__file__).resolve().parents if (folder / "toolkit").is_dir())))
import utils
from model.data_loader import digest, read_table
from toolkit.audit import BAD, GOOD, Finding, report, say, some
from toolkit.dataset import FACTS, SPLITS, read_facts
from toolkit.folders import whole_folder
from toolkit.script import add_quiet_argument, run_script
from utils import UserError

DATA = Path(__file__).resolve().parent / "data"
FEWEST_ROWS = 10  # of a table that is split in three
MOST_LOST = 1e-3  # standard deviations that a value may change by when it becomes a number of 32 bits
SAME = 0.999  # correlation of an input with the target from which on it is the target in another unit
SMALLEST = 1e-15  # standard deviation whose square such a number can hold


def sine(noise, seed):
    """Points (x, sin x), x from -π to π: 32 with noise for train, 32 for val; for test 200 of the sine itself.

    Args:
        noise: standard deviation of what is added to y.
        seed: int.

    Returns:
        (names, tables): the columns' names, the target last; dict from split to float64 array (N, 2).
    """
    generator = np.random.default_rng(seed)
    tables = {}
    for split in ("train", "val"):
        x = np.sort(generator.uniform(-np.pi, np.pi, 32))  # (32,)
        tables[split] = np.stack([x, np.sin(x) + noise * generator.standard_normal(32)], axis=1)  # (32, 2)
    x = np.linspace(-np.pi, np.pi, 200)  # (200,)
    return ["x", "y"], tables | {"test": np.stack([x, np.sin(x)], axis=1)}


def diabetes(seed):
    """442 patients: age, sex, body mass index, blood pressure and six blood values, and how the disease has progressed
    a year later (Efron et al., "Least Angle Regression", 2004). Returns (names, tables) as `sine` does.
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    names = [*bunch.feature_names, "progression"]
    return names, split_rows(np.column_stack([bunch.data, bunch.target]), seed)


def read_csv(path, target, ignore, seed):
    """The table in a file. Returns (names, tables) as `sine` does.

    Args:
        path: the file.
        target: name of the column to predict.
        ignore: list of names of columns to leave out.
        seed: int.

    Raises:
        UserError: it is no table of numbers; with line and column.
    """
    try:
        content = Path(path).read_bytes()
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        header = [" ".join(name.split()) for name in next(reader, [])]
        columns = chosen_columns(path, header, target, ignore)
        rows = [numbers(path, reader.line_num, row, header, columns) for row in reader if row]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: is not UTF-8; save the file as a table in text, in UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is not a line of a table: {error}") from None
    distinct = len(set(map(tuple, rows)))
    if distinct < FEWEST_ROWS:
        raise UserError(f"{path}: {distinct} different rows below the header; {FEWEST_ROWS} are needed at least")
    return [header[column] for column in columns], split_rows(np.array(rows), seed)


def chosen_columns(path, header, target, ignore):
    """The places of the columns that are used, a list, the target last."""
    for name in header:
        if not name or header.count(name) > 1:
            raise UserError(
                f"{path}, line 1: the column names should all differ; {name!r} stands there twice, or empty"
            )
    for name in [target, *ignore]:
        if name not in header:
            there = f"separated by commas there are {', '.join(header) or 'none'}"
            raise UserError(f"{path}, line 1: there is no column {name!r}; {there}")
    inputs = [place for place, name in enumerate(header) if name not in [target, *ignore]]
    if not inputs:
        raise UserError(f"{path}, line 1: no column is left beside {target!r}, to predict it from")
    return [*inputs, header.index(target)]


def numbers(path, line, row, header, columns):
    """The cells of one line of the file as a list of floats, in the order of `columns`."""
    if len(row) != len(header):
        raise UserError(f"{path}, line {line}: {len(row)} cells, but the header has {len(header)}")
    values = []
    for column in columns:
        try:
            values.append(float(row[column].replace("_", "?")))  # which 1_000 is to Python, and no other program
        except ValueError:
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            found = f"{row[column]!r} is not a number" if row[column].strip() else "the cell is empty"
            raise UserError(f"{path}, line {line}, column {header[column]}: {found}; mend or remove the line, or leave "
                            f"the column out with --ignore")  # fmt: skip
    return values


def split_rows(table, seed):
    """The rows of a table, (N, columns), split 60/20/20 at random; those that are equal stay together.

    Returns:
        dict from split to array.
    """
    _, group = np.unique(table, axis=0, return_inverse=True)
    order = np.random.default_rng(seed).permutation(group.max() + 1)[group.reshape(-1)]  # (N,) a place for each row
    share = max(1, round(len(np.unique(order)) / 5))
    where = {"test": order < share, "val": (order >= share) & (order < 2 * share), "train": order >= 2 * share}
    return {split: table[where[split]] for split in SPLITS}


def describe(names, tables, recipe):
    """The content of dataset.json, a dict.

    Raises:
        UserError: the target has one value only, or numbers of 32 bits, which models calculate with, cannot tell the
            values of a column apart.
    """
    train = tables["train"]
    with np.errstate(all="ignore"):  # what is too large is named below
        mean, std = train.mean(axis=0), train.std(axis=0)  # (columns,) each
    is_constant = train.min(axis=0) == train.max(axis=0)  # (columns,)
    if is_constant[-1]:
        raise UserError(f"the target {names[-1]} is {mean[-1]:g} in all of the train split: nothing to predict")
    for name, column, deviation in zip(names, train.T, np.where(is_constant, 1, std), strict=True):
        with np.errstate(all="ignore"):
            lost = np.abs(column.astype(np.float32) - column).max() / deviation
        if not (lost < MOST_LOST and SMALLEST < deviation < 1 / SMALLEST):
            raise UserError(
                f"column {name}: its values, {column.min():g} to {column.max():g}, are too large or too near together "
                f"for numbers of 32 bits; subtract a constant, or change its unit"
            )
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


def is_there(target, facts, force):
    """Whether the dataset that `facts` describes is at `target` already.

    Raises:
        UserError: something else is there, and not `force`, or it is no dataset of this script.
    """
    if not target.exists():
        return False
    theirs = read_facts(target)
    if "target_name" not in theirs:
        raise UserError(
            f"{target}: is there and was not made by build_dataset.py for regression; choose another --name"
        )
    if not force and theirs.get("fingerprint") != facts["fingerprint"]:
        given = ", ".join(f"{name} {value}" for name, value in theirs.get("source", {}).items() if value)
        raise UserError(f"{target}: holds another dataset ({given}); --force replaces it")
    return not force


def write_dataset(target, names, tables, facts):
    """Make the folder `target`, whole or not at all."""
    with whole_folder(target) as aside:
        for split, table in tables.items():
            with utils.open_whole(aside / f"{split}.csv", "w") as file:
                csv.writer(file, lineterminator="\n").writerows([names, *table.tolist()])
        utils.write_whole(aside / FACTS, json.dumps(facts, indent=2) + "\n")


def audit(data_dir):
    """Check a dataset; gives a list of Finding. Raises UserError where it is none, or was changed by hand."""
    facts = argparse.Namespace(**read_facts(data_dir))
    if "target_name" not in facts:
        raise UserError(f"{data_dir}: not a dataset that this script made, by its {FACTS}")
    tables = {split: read_table(data_dir, split, facts).double().numpy() for split in SPLITS}
    names, train = [*facts.input_names, facts.target_name], tables["train"]
    low, high = train.min(axis=0), train.max(axis=0)  # (columns,) each
    seen, copies, beyond = set(map(tuple, train[:, :-1])), [], []
    for split in ("val", "test"):
        rows = list(map(tuple, tables[split][:, :-1]))
        if copied := sum(row in seen for row in rows):
            copies.append(f"{copied} of {split}")
        seen |= set(rows)
        beyond.append(f"{((tables[split] < low) | (tables[split] > high)).any(axis=1).mean():.0%} of {split}")
    varied = np.flatnonzero(low[:-1] < high[:-1])
    target = [names[i] for i in varied if abs(np.corrcoef(train[:, i], train[:, -1])[0, 1]) > SAME]
    ranges = [f"{name} {a:g} to {b:g}" for name, a, b in zip(names, low, high, strict=True)]
    text = f"in train {some(ranges)}; with a value beyond those of train: {', '.join(beyond)}"
    findings = [
        Finding(GOOD, "files", f"{sum(map(len, tables.values())):,} rows, as they were built"),
        Finding(GOOD, "copies", "no row has the inputs of one in an earlier split"),
        Finding(GOOD, "inputs", f"none is {names[-1]} itself in another unit"),
        Finding(GOOD, "ranges", text, {"train": ranges}),
    ]
    if copies:
        findings[1] = Finding(BAD, "copies", f"the inputs of {' and '.join(copies)} are in an earlier split, too")
    if target:
        findings[2] = Finding(
            BAD, "inputs", f"{names[-1]} itself in another unit: {some(target)}; leave them out with --ignore"
        )
    return findings


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", choices=["sine", "diabetes", "csv"], help="where the rows come from")
    parser.add_argument("path", nargs="?", help="with `csv`: the file")
    parser.add_argument("--target", metavar="COLUMN", help="with `csv`: the column to predict")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="COLUMN", help="with `csv`: columns to leave out")
    parser.add_argument("--noise", type=float, default=0.1, help="of `sine`: its standard deviation (default: 0.1)")
    parser.add_argument("--name", help="name of the dataset under data/ (default: the source's, or the file's)")
    parser.add_argument("--seed", type=int, default=230, help="seed of the split and the noise (default: 230)")
    parser.add_argument("--force", action="store_true", help="replace a dataset of that name")
    parser.add_argument("--audit", type=Path, metavar="DATASET", help="build nothing, look into a folder under data/")
    add_quiet_argument(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    if args.audit:
        report(args.audit, audit(args.audit))
        return
    if args.source is None:
        raise UserError("one of sine, diabetes and csv is missing: build_dataset.py sine")
    given = [args.path is not None, args.target is not None]
    if not all(given) if args.source == "csv" else any([*given, args.ignore]):
        raise UserError("`csv`, and nothing else, takes a file and --target: build_dataset.py csv FILE --target COLUMN")
    if args.seed < 0 or not 0 <= args.noise < math.inf:
        raise UserError("--seed and --noise should be 0 or more")
    name = args.name or (Path(args.path).stem if args.path else args.source)
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name {name}: should be the name of a folder under data/, without slashes")
    if args.source == "sine":
        names, tables = sine(args.noise, args.seed)
    elif args.source == "diabetes":
        names, tables = diabetes(args.seed)
    else:
        names, tables = read_csv(args.path, args.target, args.ignore, args.seed)
    recipe = {key: value for key, value in vars(args).items() if key not in ("name", "force", "audit", "quiet")}
    facts = describe(names, tables, recipe)
    target = DATA / name
    target = target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target
    if is_there(target, facts, args.force):
        logging.info("%s is there already, with the same rows: nothing to do", target)
        return
    write_dataset(target, names, tables, facts)
    rows = ", ".join(f"{count['rows']} {split}" for split, count in facts["counts"].items())
    logging.info("%s: %s from %s; %s rows", target, names[-1], ", ".join(names[:-1]), rows)
    logging.info('To train on it: "dataset": %s in params.json', json.dumps(name))
    say(audit(target), "examples/regression/build_dataset.py", target)


if __name__ == "__main__":
    run_script(main)
