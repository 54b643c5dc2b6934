"""The folder of an experiment: its checkpoints, the data they were trained on, and room for a new run."""

import contextlib
import json
import logging
import os
from pathlib import Path

from tabulate import tabulate

import utils
from toolkit.core import processes
from toolkit.core.lock import remove_leftovers
from toolkit.core.text import list_some
from utils import UserError, without_notes

SAMPLE_FACTS = ("fingerprint", "counts", "mean", "std")  # differ between samples of the same kind (size, classes, ...)
RUN_FILES = ["previous.pth.tar", "last.pth.tar", "*.pth.tar", "history.csv", "speed.csv", "metrics_*.json", "run.json"]
RESULTS = [*RUN_FILES, "curves.png", *utils.REPORTS, "model.onnx", "model.pt2", "tensorboard"]  # checkpoints come first
SAME = "the results stay the same"
MAY_CHANGE = {  # hyperparameters that may change when a run is resumed, and what that means
    "num_epochs": "epochs in all",
    "learning_rate": "the new value is used from here on",
    "early_stopping_patience": "epochs without a better result",
    "dataset": "the data is the same, by its fingerprint",
} | dict.fromkeys(["checkpoint_minutes", "num_workers", "save_summary_steps", "cache_above_mb"], SAME)


def dataset_of(params):
    """Return the facts of the data that a checkpoint holds, a dict; empty for data without a dataset.json."""
    return {name: value for name, value in params.dataset_facts.items() if name != "counts"}


def check_same_data(theirs, params, file, advice, allow=False):
    """Return True if a checkpoint was trained on the same data, as far as is known; False if `allow` accepts another.

    Args:
        theirs: `dataset_of` when the checkpoint was written, a dict; None or empty if unknown.
        params: hyperparameters, with the facts of the present data.
        file, advice: for the message: the checkpoint, and what the user can do.
        allow: bool, accept other samples of the same kind.

    Raises:
        UserError: it is another dataset.
    """
    ours = dataset_of(params)
    if not isinstance(theirs, dict) or not theirs or not ours or theirs.get("fingerprint") == ours.get("fingerprint"):
        return True
    names = [name for name in theirs | ours if name.split("_")[-1] not in SAMPLE_FACTS]
    changed = [f"{n} {theirs.get(n)}, now {ours.get(n)}" for n in names if theirs.get(n) != ours.get(n)]
    difference = "; ".join(changed) or "of the same kind, other samples"
    if changed or not allow:
        raise UserError(f"{file}: was trained on another dataset ({difference}); {advice}")
    logging.warning("%s was trained on another dataset (%s)", file, difference)
    return False


def check_same_split(theirs, params, names, file, allow=False):
    """Return True if the hyperparameters `names`, which the loader has read, are `theirs`, those of a checkpoint.

    Those of the training loop do not choose samples, except the seed. If others differ, raise UserError; with `allow`,
    return False.
    """
    ours = as_json(params.defaults | params.given)
    theirs = as_json(params.defaults) | theirs if theirs else ours  # CS230's checkpoints do not hold them
    names = names - MAY_CHANGE.keys() - (utils.Hyperparameters.model_fields.keys() - {"seed"})
    names |= set() if dataset_of(params) else {"dataset"}  # else its fingerprint says whether it is the same
    changed = [f"{n} {theirs.get(n)}, now {ours[n]}" for n in sorted(names & ours.keys()) if theirs.get(n) != ours[n]]
    if changed and not allow:
        raise UserError(
            f"{file}: was trained on other splits of the data ({'; '.join(changed)}): put back what params.json had, "
            f"or allow it with --other_data"
        )
    return not changed


def changed_params(checkpoint, params):
    """Return the hyperparameters that differ from those of a Checkpoint, a dict from name to [then, now]; log them.

    Raises:
        UserError: with one of the changes the result would not be the same run.
    """
    theirs, ours, best = checkpoint.state.params, as_json(params.defaults | params.given), checkpoint.state.best
    if not theirs:  # CS230's checkpoints do not hold them
        return {}
    theirs = as_json(params.defaults) | theirs  # keys that are newer than the checkpoint had their defaults
    names = sorted(without_notes(theirs | params.given))
    differ = {name: [theirs.get(name), ours.get(name)] for name in names if theirs.get(name) != ours.get(name)}
    allowed = {name: why for name, why in MAY_CHANGE.items() if name != "dataset" or hasattr(params, "fingerprint")}
    if best is not None and params.monitor == best.monitor and theirs.get("monitor") is None:
        allowed["monitor"] = "the default until now"
    refused = [name for name in differ if name not in allowed]
    if differ:
        rows = []
        for name, values in differ.items():
            then, now = ("(none)" if value is None else json.dumps(value) for value in values)
            rows.append([name, then, "->", now, allowed.get(name, "would be another run")])
        table = tabulate(rows, tablefmt="plain", disable_numparse=True)
        show = print if refused and processes.is_rank_zero() else logging.info  # a refused run leaves no trace
        show(f"params.json has changed since this run was last trained:\n{table}")
    if refused:
        raise UserError(
            f"{checkpoint.file}: is of a run with another {', '.join(refused)}: put back what params.json had, start "
            f"over with --restart, or make a new experiment with --from"
        )
    return differ


def has_run(model_dir):
    """Return True if an experiment's folder holds a run that could be resumed."""
    return any((Path(model_dir) / f"{name}.pth.tar").exists() for name in ("last", "previous"))


def starts_new_run(model_dir, restore_file=None, *, restart=False, partial=False, **_):
    """Return True if a run with these arguments of `Run` needs initial weights: not all are from a checkpoint."""
    return partial or (restore_file is None and (restart or not processes.on_rank_zero(lambda: has_run(model_dir))))


def version_of(file):
    """Return a value that changes when another file takes the place of `file`; None if there is none."""
    try:
        status = os.stat(file)
        return status.st_ino, status.st_mtime_ns, status.st_size
    except OSError:
        return None


def as_json(values):
    """Return a dict as it would come back from a json file, without the values that json cannot hold."""
    plain = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, ValueError):
            plain[name] = json.loads(json.dumps(value))
    return plain


def free_name(folder, name, ending=""):
    """Return the path `<name>-<n><ending>` in a folder, with the number after the highest one that exists."""
    taken = [path.name.removeprefix(f"{name}-").removesuffix(ending) for path in folder.glob(f"{name}-*{ending}")]
    numbers = [int(number) for number in taken if number.isdecimal()]
    return folder / f"{name}-{max(numbers, default=0) + 1}{ending}"


def check_experiment(model_dir):
    """Raise UserError if there is no params.json in `model_dir`: it is a misspelled name, or the file itself."""
    folder = Path(model_dir)
    if folder.is_file():
        raise UserError(f"{folder}: is a file; give the folder that it is in: {folder.parent}")
    if not (folder / "params.json").exists():
        known = sorted(path.parent.name for path in folder.parent.glob("*/params.json"))
        near, there = utils.similar(folder.name, known), list_some(known, 5) or "none"
        advice = f"an experiment is a folder with a params.json in it; in {folder.absolute().parent} there is {there}"
        advice = f"did you mean {folder.parent / near}?" if near else advice
        raise UserError(f"{folder / 'params.json'}: no such file; {advice}")


def find_checkpoint(model_dir, restore_file):
    """Return the path of a checkpoint, which exists: a name in the experiment's folder ("best"), or a path."""
    for path in (Path(model_dir) / f"{restore_file}.pth.tar", Path(model_dir) / restore_file, Path(restore_file)):
        if path.is_file():
            return path
    names = [path.name.removesuffix(".pth.tar") for path in sorted(Path(model_dir).glob("*.pth.tar"))]
    advice = f"it has {', '.join(names)}: choose one with --restore_file"
    if not names:
        advice = f"it is not trained yet: python train.py --model_dir {model_dir}"
    raise UserError(f"{restore_file}: no such checkpoint, neither in {model_dir} nor as a path; {advice}")


def name_of(checkpoint, model_dir):
    """Return the name of a checkpoint's results: "best", or "<folder>_best" if it is in another experiment's folder."""
    name = checkpoint.name.removesuffix(".pth.tar")
    folder = checkpoint.resolve().parent
    return name if folder == Path(model_dir).resolve() else f"{folder.name}_{name}"


def move_results_aside(model_dir, patterns=RESULTS):
    """Move what an earlier run left in an experiment's folder to a folder `replaced-<n>` in it; nothing is deleted.

    A run.json and TensorBoard events alone are left where they are: that run had no checkpoint and no result.
    """
    folder = Path(model_dir)
    results = list(dict.fromkeys(path for pattern in patterns for path in sorted(folder.glob(pattern))))
    if not any(path.name not in ("run.json", "tensorboard") for path in results):
        return
    aside = free_name(folder, "replaced")
    aside.mkdir()
    for path in results:
        path.rename(aside / path.name)
    logging.info("The results of the earlier run are now in %s", aside)


def prepare_folder(folder, lock, resumed):
    """Create and lock the folder of an experiment; move aside what an earlier run left, unless `resumed` continues it.

    Raises:
        UserError: it cannot be written to, or another process trains there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        remove_leftovers(folder)
        for file, error in resumed.unreadable if resumed else ():
            aside = free_name(folder, "unreadable", f"-{file.name}")
            file.rename(aside)
            logging.warning("%s; it is now %s; resuming from the checkpoint before it", error, aside.name)
        if not resumed:
            move_results_aside(folder)
        elif not resumed.state.params:  # CS230's best checkpoint may have been selected by another metric
            move_results_aside(folder, ["best.pth.tar", "metrics_*_best*.json", *utils.REPORTS])
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from None
