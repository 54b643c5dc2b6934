"""The folder of an experiment: its checkpoints, what data they are of, and making room for new ones."""

import contextlib
import json
import logging
import os
from pathlib import Path

from tabulate import tabulate

import utils
from toolkit.core import processes
from toolkit.core.state import read_state
from utils import UserError

NO_KIND = ("fingerprint", "counts", "mean", "std")  # facts of the samples, not of what kind they are
# of a run; first what a run that was not moved wholly would go on from
RESULTS = (
    "previous.pth.tar",
    "last.pth.tar",
    "*.pth.tar",
    "history.csv",
    "speed.csv",
    "metrics_*.json",
    "run.json",
    "curves.png",
    *utils.REPORTS,
    "model.onnx",
    "model.pt2",
    "tensorboard",
)
MAY_CHANGE = {  # from one session of a run to the next
    "num_epochs": "so many epochs in all",
    "learning_rate": "the new value holds from here on",
    "checkpoint_minutes": "the results stay the same",
    "early_stopping_patience": "so many epochs without a better result",
    "num_workers": "the results stay the same",
    "save_summary_steps": "the results stay the same",
    "cache_above_mb": "the results stay the same",
    "dataset": "the data is the same, by its fingerprint",
}
REFUSED = "would be another run"
LOOKS = "test_looks.json"  # counts how often evaluate.py has evaluated the test split


def dataset_of(params):
    """What a checkpoint keeps of the data it was trained on, a dict (empty for data without a dataset.json)."""
    return {name: value for name, value in params.dataset_facts.items() if name != "counts"}


def check_same_data(theirs, params, file, way_out, allow=False):
    """Refuse a checkpoint that was trained on other data than the present; with `allow`, only say so.

    Args:
        theirs: what `dataset_of` gave when the checkpoint was written, a dict; None or empty: not known.
        params: hyperparameters, with the facts of the present data.
        file: the checkpoint's name, for the message.
        way_out: what the user can do, for the message.
        allow: whether other samples of the same kind will do.

    Returns:
        Whether it is the same data, as far as is known.

    Raises:
        UserError: it is another dataset.
    """
    ours = dataset_of(params)
    if not isinstance(theirs, dict) or not theirs or not ours or theirs.get("fingerprint") == ours.get("fingerprint"):
        return True
    names = [name for name in theirs | ours if name.split("_")[-1] not in NO_KIND]
    changed = [f"{n} {theirs.get(n)}, now {ours.get(n)}" for n in names if theirs.get(n) != ours.get(n)]
    difference = "; ".join(changed) or "of the same kind, other samples"
    if changed or not allow:
        raise UserError(f"{file}: was trained on another dataset ({difference}); {way_out}")
    logging.warning("%s was trained on another dataset (%s)", file, difference)
    return False


def changed_params(theirs, params, file, best=None):
    """What differs between the hyperparameters of a checkpoint and the present ones; said in the log, key by key.

    Args:
        theirs: the checkpoint's, a dict.
        params: the present hyperparameters.
        file: the checkpoint's name, for the message.
        best: the Best of the checkpoint, or None.

    Returns:
        dict from name to [then, now].

    Raises:
        UserError: it would be another run.
    """
    ours = as_json(params.hyperparameters)
    if theirs:  # keys that are younger than the checkpoint were at their defaults
        theirs = as_json(params.defaults) | theirs
    names = theirs.keys() | params.given.keys() if theirs else ()  # CS230's checkpoints say nothing of them
    names = sorted(name for name in names if not name.startswith(("$", "_")))
    differ = {name: [theirs.get(name), ours.get(name)] for name in names if theirs.get(name) != ours.get(name)}
    allowed = {k: v for k, v in MAY_CHANGE.items() if k != "dataset" or hasattr(params, "fingerprint")}
    if best is not None and params.monitor == best.monitor and theirs.get("monitor") is None:
        allowed["monitor"] = "as it was by default"
    refused = [name for name in differ if name not in allowed]
    if differ:
        rows = [[n, as_text(then), "->", as_text(now), allowed.get(n, REFUSED)] for n, (then, now) in differ.items()]
        table = tabulate(rows, tablefmt="plain", disable_numparse=True)
        say = (
            print if refused and processes.is_rank_zero() else logging.info
        )  # what is refused changes no file, nor the log
        say(f"params.json has changed since this run was trained last:\n{table}")
    if refused:
        raise UserError(
            f"{file}: is of a run with another {', '.join(refused)}: put back what params.json had, begin anew "
            f"with --restart, or make a new experiment with --from"
        )
    return differ


def has_run(model_dir):
    """Whether an experiment's folder holds a run that could be gone on with."""
    return any((Path(model_dir) / f"{name}.pth.tar").exists() for name in ("last", "previous"))


def starts_new_run(model_dir, restore_file=None, *, restart=False, partial=False, **_):
    """Whether a run, with these arguments of `Run`, begins with weights that are not, or not all, a checkpoint's."""
    return partial or (restore_file is None and (restart or not processes.on_rank_zero(lambda: has_run(model_dir))))


def version_of(file):
    """What changes when another file takes the place of `file`; None where there is none."""
    try:
        status = os.stat(file)
        return status.st_ino, status.st_mtime_ns, status.st_size
    except OSError:
        return None


def as_text(value):
    """A value of params.json as it stands there; "(none)" where the key is missing."""
    return "(none)" if value is None else json.dumps(value)


def read_last(folder):
    """The latest checkpoint of a run that can be read: last, or else the one before it.

    Args:
        folder: the experiment's.

    Returns:
        (state, file, unreadable): the TrainState and its file, or None twice; the files that could not be read and why,
        a list of pairs.

    Raises:
        UserError: there are some, and none can be read.
    """
    unreadable = []
    for file in [file for file in (folder / "last.pth.tar", folder / "previous.pth.tar") if file.exists()]:
        try:
            state = read_state(utils.read_checkpoint(file), file)
        except UserError as error:
            unreadable.append((file, error))
        else:
            if file.name != "last.pth.tar" and not unreadable:
                logging.warning("%s is missing; going on from the one before it", folder / "last.pth.tar")
            return state, file, unreadable
    if unreadable:
        raise UserError(f"{unreadable[0][1]} (--restart begins anew, and moves it aside)")
    return None, None, []


def free_name(folder, name, ending=""):
    """The path `<name>-<n><ending>` in a folder, with the number after the highest that is there."""
    taken = [path.name.removeprefix(f"{name}-").removesuffix(ending) for path in folder.glob(f"{name}-*{ending}")]
    numbers = [int(number) for number in taken if number.isdecimal()]
    return folder / f"{name}-{max(numbers, default=0) + 1}{ending}"


def find_checkpoint(model_dir, restore_file):
    """The path of a checkpoint: a name in the experiment's folder ("best", with or without ending), or a path itself.

    Raises:
        UserError: there is no such file.
    """
    for path in (Path(model_dir) / f"{restore_file}.pth.tar", Path(model_dir) / restore_file, Path(restore_file)):
        if path.is_file():
            return path
    raise UserError(
        f"{restore_file}: no such checkpoint, neither in {model_dir} nor as a path; train.py makes best and last"
    )


def name_of(checkpoint, model_dir):
    """What the results of a checkpoint are called: "best", or with its folder before it where that is another."""
    name = checkpoint.name.removesuffix(".pth.tar")
    folder = checkpoint.resolve().parent
    return name if folder == Path(model_dir).resolve() else f"{folder.name}_{name}"


def move_results_aside(model_dir, patterns=RESULTS):
    """Move what an earlier run left in an experiment's folder to a folder `replaced-<n>` in it. Nothing is deleted.

    A run that has no checkpoint and no result left nothing that is worth it.
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


def take_folder(folder, lock, goes_on, state, unreadable):
    """Make the folder of an experiment, or make room in it, for a run that begins or goes on.

    Args:
        folder: the folder.
        lock: the ExperimentLock on it.
        goes_on: whether the run goes on.
        state: the TrainState that it goes on from.
        unreadable: what `read_last` gave.

    Raises:
        UserError: it cannot be written to, or another process trains there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        for file in folder.glob(".*.tmp"):  # that a process left which was killed while it wrote
            with contextlib.suppress(OSError):
                if "_" not in file.name:  # as those have that evaluate.py may be writing
                    file.unlink()
        for file, error in unreadable:
            aside = free_name(folder, "unreadable", f"-{file.name}")
            file.rename(aside)
            logging.warning("%s; it is now %s; going on from the one before it", error, aside.name)
        if not goes_on:
            move_results_aside(folder)
        elif not state.params:  # of CS230's template: what it calls best is not known to be worse
            move_results_aside(folder, ["best.pth.tar", "metrics_*_best*.json", *utils.REPORTS])
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from None


def as_json(values):
    """A dict as it would come back from a json file, without the values that json cannot hold."""
    plain = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, ValueError):
            plain[name] = json.loads(json.dumps(value))
    return plain
