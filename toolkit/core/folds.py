"""Cross-validation: train and val together are divided into folds, one of which is val and the others train."""

import hashlib

import numpy as np

from utils import UserError


def fold_of(samples, labels, num_folds, fold):
    """Return the indices of the train and val samples of one fold.

    Every class is spread evenly over the folds, and equal samples are in the same fold. The folds depend on the data
    only, not on a seed, so all configurations of a sweep have the same ones.

    Args:
        samples: sequence of N tensors, those of train and val together; only used to find equal ones.
        labels: sequence of N classes, or None to make folds of equal size only.
        num_folds, fold: number of folds; the fold that is val, counted from 0.

    Returns:
        dict from "train" and "val" to int64 arrays of indices, ascending.

    Raises:
        UserError: there is no such fold, or there are more folds than samples.
    """
    if num_folds < 2 or fold >= num_folds:
        raise UserError(f"num_folds is {num_folds} and fold {fold}: num_folds should be at least 2, fold less than it")
    equal = {}  # from the content of a sample to the indices of all samples with this content
    for index, sample in enumerate(samples):
        equal.setdefault(hashlib.sha256(sample.numpy().tobytes()).digest(), []).append(index)
    groups = list(equal.values())
    if len(groups) < num_folds:
        raise UserError(f"num_folds is {num_folds}, but train and val have only {len(groups)} different samples")
    order = np.random.default_rng(0).permutation(len(groups))
    if labels is not None:
        classes = np.array([int(labels[group[0]]) for group in groups])
        order = order[np.argsort(classes[order], kind="stable")]  # class by class, in random order within each
    in_val = np.zeros(len(samples), bool)
    for group in order[fold::num_folds]:
        in_val[groups[group]] = True
    return {"train": np.flatnonzero(~in_val), "val": np.flatnonzero(in_val)}
