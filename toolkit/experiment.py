"""The folder of an experiment: its checkpoints, what data they are of, and making room for new ones."""

import logging
from pathlib import Path

from utils import UserError

KIND_OF_DATA = ("num_classes", "class_names", "image_channels", "image_height", "image_width")
KEPT_ON_RESTART = ("params.json", "train.log")  # what stays when old results are moved aside


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

    Raises:
        UserError: it is another dataset.
    """
    theirs, ours = state.get("dataset") or {}, dataset_of(params)
    if not theirs or not ours or theirs.get("fingerprint") == ours.get("fingerprint"):
        return
    changed = [f"{k} {theirs.get(k)}, now {ours.get(k)}" for k in KIND_OF_DATA if theirs.get(k) != ours.get(k)]
    difference = "; ".join(changed) or "the same classes, other images"
    if changed or not allow:
        raise UserError(f"{file}: was trained on another dataset ({difference}); {way_out}")
    logging.warning("%s was trained on another dataset (%s)", file, difference)


def find_checkpoint(model_dir, restore_file):
    """The path of a checkpoint: `restore_file` itself where it is one, else that name in the experiment's folder.

    Raises:
        UserError: neither is there.
    """
    named = Path(model_dir) / f"{restore_file}.pth.tar"
    if not named.is_file() and not Path(restore_file).is_file():
        raise UserError(f"{named}: no such checkpoint; train.py makes last and best")
    return named if named.is_file() else Path(restore_file)


def move_results_aside(model_dir):
    """Move what an earlier run left in an experiment's folder to a folder `replaced-<n>` in it. Nothing is deleted."""
    model_dir = Path(model_dir)
    if not any((model_dir / name).exists() for name in ("last.pth.tar", "best.pth.tar", "history.csv")):
        return
    number = 1 + sum(1 for _ in model_dir.glob("replaced-*"))
    aside = model_dir / f"replaced-{number}"
    aside.mkdir()
    for entry in model_dir.iterdir():
        if entry.name not in KEPT_ON_RESTART and not entry.name.startswith("replaced-"):
            entry.rename(aside / entry.name)
    logging.info("The results of the earlier run are now in %s", aside)
