"""The folder of an experiment: its checkpoints, what data they are of, and making room for new ones."""

import contextlib
import json
import logging
from pathlib import Path

from utils import UserError

KIND_OF_DATA = ("num_classes", "class_names", "image_channels", "image_height", "image_width")
RESULTS = ("*.pth.tar", "history.csv", "metrics_*.json", "run.json", "curves.png", "tensorboard")  # of a run
MAY_CHANGE = ("num_epochs", "num_workers", "save_summary_steps")  # from one session of a run to the next


def dataset_of(params):
    """What a checkpoint keeps of the data it was trained on, a dict (empty for data without a dataset.json)."""
    names = ("fingerprint", *KIND_OF_DATA, "mean", "std")
    return {name: getattr(params, name) for name in names if hasattr(params, name)}


def check_same_data(state, params, file, way_out, allow=False):
    """Refuse a checkpoint that was trained on other data than the present; with `allow`, only say so.

    Args:
        state: the checkpoint's dict.
        params: hyperparameters, with the facts of the present data.
        file: the checkpoint's name, for the message.
        way_out: what the user can do, for the message.
        allow: whether other images of the same classes will do.

    Returns:
        Whether it is the same data, as far as is known.

    Raises:
        UserError: it is another dataset.
    """
    theirs, ours = state.get("dataset") or {}, dataset_of(params)
    if not theirs or not ours or theirs.get("fingerprint") == ours.get("fingerprint"):
        return True
    changed = [f"{k} {theirs.get(k)}, now {ours.get(k)}" for k in KIND_OF_DATA if theirs.get(k) != ours.get(k)]
    difference = "; ".join(changed) or "the same classes, other images"
    if changed or not allow:
        raise UserError(f"{file}: was trained on another dataset ({difference}); {way_out}")
    logging.warning("%s was trained on another dataset (%s)", file, difference)
    return False


def check_same_params(state, params, file):
    """Refuse to go on with a run whose hyperparameters have changed in a way that would make it another one.

    Args:
        state: the checkpoint's dict.
        params: the present hyperparameters.
        file: the checkpoint's name, for the message.

    Raises:
        UserError: some have changed that may not.
    """
    theirs, ours = state.get("params"), as_json(params.stated)
    if not theirs:  # CS230's checkpoints say nothing of them
        return
    names = theirs.keys() | params.written.keys()
    names = sorted(k for k in names if k not in MAY_CHANGE and not k.startswith(("$", "_")))
    changed = [f"{k} was {theirs.get(k)!r}, is {ours.get(k)!r}" for k in names if theirs.get(k) != ours.get(k)]
    if changed:
        raise UserError(
            f"{file}: is of a run with other hyperparameters ({'; '.join(changed)}): put them back, begin anew with "
            f"--restart, or make a new experiment with --from"
        )


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


def results_in(model_dir):
    """The files and folders that an earlier run left in an experiment's folder, as a list of paths."""
    return [path for pattern in RESULTS for path in sorted(Path(model_dir).glob(pattern))]


def move_results_aside(model_dir):
    """Move what an earlier run left in an experiment's folder to a folder `replaced-<n>` in it. Nothing is deleted."""
    results = results_in(model_dir)
    if not results:
        return
    taken = [path.name.removeprefix("replaced-") for path in Path(model_dir).glob("replaced-*")]
    numbers = [int(number) for number in taken if number.isdecimal()]
    aside = Path(model_dir) / f"replaced-{max(numbers, default=0) + 1}"
    aside.mkdir()
    for path in results:
        path.rename(aside / path.name)
    logging.info("The results of the earlier run are now in %s", aside)


def as_json(values):
    """A dict as it would come back from a json file, without the values that json cannot hold."""
    plain = {}
    for name, value in values.items():
        with contextlib.suppress(TypeError, ValueError):
            plain[name] = json.loads(json.dumps(value))
    return plain
