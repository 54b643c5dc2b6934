"""Cross-validation: train and val together, cut into parts, one of which is val and the others train."""

import hashlib

import numpy as np

from utils import UserError


def fold_of(samples, labels, num_folds, fold):
    """The two sides of one fold. Every class is spread evenly over the folds, and equal samples stay together.

    Which sample is in which fold depends on the data alone, not on a seed: all configurations have the same folds.

    Args:
        samples: sequence of N tensors, those of train and val together; only looked at to find equal ones.
        labels: sequence of N classes, or None: the folds are then of equal size alone.
        num_folds: how many folds there are.
        fold: which one is val, from 0.

    Returns:
        dict from "train" and "val" to int64 arrays of indices, ascending.

    Raises:
        UserError: there is no such fold, or there are more folds than samples.
    """
    if num_folds < 2 or fold >= num_folds:
        raise UserError(f"num_folds is {num_folds} and fold {fold}: there should be 2 folds or more, counted from 0")
    equal = {}  # samples that are, by what they hold
    for index, sample in enumerate(samples):
        equal.setdefault(hashlib.sha256(sample.numpy().tobytes()).digest(), []).append(index)
    groups = list(equal.values())
    if len(groups) < num_folds:
        raise UserError(f"num_folds is {num_folds}, but there are {len(groups)} different samples in train and val")
    order = np.random.default_rng(0).permutation(len(groups))
    if labels is not None:
        classes = np.array([int(labels[group[0]]) for group in groups])
        order = order[np.argsort(classes[order], kind="stable")]  # class by class, at random within it
    in_val = np.zeros(len(samples), bool)
    for group in order[fold::num_folds]:
        in_val[groups[group]] = True
    return {"train": np.flatnonzero(~in_val), "val": np.flatnonzero(in_val)}
