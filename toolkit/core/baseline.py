"""The accuracy of always predicting the most frequent class, which a trained model should exceed."""

import logging

import numpy as np


def warn_if_no_better_than_most_frequent_class(best, dataloader, params):
    """Log a warning if the best validation accuracy of a run is not above that of predicting one class for everything.

    Nothing is logged if another metric is monitored, or if the classes of the validation data are unknown. `best` is
    the Best of the run, or None; `dataloader` has the validation data.
    """
    share = share_of_most_frequent_class(dataloader, params)
    if best is not None and best.monitor == "accuracy" and share is not None and best.value <= share:
        logging.warning(
            "The best val accuracy, %.4f, is no better than always predicting the most frequent class (%.4f): the "
            "model has learned nothing useful. Check learning_rate, inputs and labels; preflight.py finds many causes.",
            best.value,
            share,
        )


def share_of_most_frequent_class(dataloader, params):
    """Return the share of the most frequent class in a split, a float, or None if the classes are unknown.

    They are taken from the dataset's attribute `labels` or `targets`, or from the facts of the dataset.
    """
    dataset = getattr(dataloader, "dataset", None)
    labels = getattr(dataset, "labels", getattr(dataset, "targets", None))
    try:
        labels = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    except (TypeError, ValueError):
        labels = np.array(None)
    if labels.ndim == 1 and len(labels) and np.issubdtype(labels.dtype, np.integer):
        return np.unique(labels, return_counts=True)[1].max() / len(labels)
    counts = params.values.get("counts", {})
    counts = counts.get("val") if isinstance(counts, dict) and not params.values.get("num_folds") else None
    if not counts or not all(isinstance(count, int) for count in counts.values()):  # of another kind of dataset
        return None
    return max(counts.values()) / sum(counts.values())
