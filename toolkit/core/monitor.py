"""The monitored metric: the validation result that selects the best checkpoint, and what it should exceed."""

import logging
import math

import numpy as np

from utils import UserError

MODES = dict.fromkeys(["accuracy", "f1", "precision", "recall", "auroc", "r2"], "max")
MODES |= dict.fromkeys(["loss", "rmse", "mae"], "min")  # for these names `monitor_mode` may be left out


def is_better(value, best, mode):
    """Return True if `value` is at least as good as `best`, a float or None. As in CS230, a tie counts as better.

    NaN is never better, and anything else is better than NaN.
    """
    if best is None or math.isnan(best):
        return not math.isnan(value)
    return value >= best if mode == "max" else value <= best


def monitored(params, results):
    """Return the name of the monitored metric, and "max" or "min", whichever is better.

    Args:
        params: hyperparameters: `monitor` (by default accuracy if there is one, else loss) and `monitor_mode`.
        results: the names of the results, "loss" and the metrics.

    Raises:
        UserError: there is no such result, or it is unknown whether higher or lower is better.
    """
    name, mode = params.monitor, params.monitor_mode
    if name is None:
        name = "accuracy" if "accuracy" in results else "loss"
    if name not in results:
        raise UserError(f"params.json: monitor is {name!r}, but the metrics are {', '.join(results)}")
    mode = mode or MODES.get(name)
    if mode is None:
        raise UserError(f'params.json: monitor is {name!r}; add "monitor_mode": "max" or "min", whichever is better')
    return name, mode


def monitored_in(row, params):
    """Return what `monitored` returns, for the results in a row of the history."""
    return monitored(params, [name.removeprefix("val_") for name in row if name.startswith("val_")])


def check_results(results, best, epoch, optimizer, params):
    """Raise UserError if the validation results of an epoch cannot be compared with `best`, the Best so far or None.

    That is so if the loss is NaN, or the monitored metric is missing or is not the one that `best` was selected by.
    """
    if math.isnan(results["loss"]):
        raise UserError(
            f"the validation loss became nan in epoch {epoch}, with learning rate {optimizer.param_groups[0]['lr']:g}; "
            f"stopped (checkpoints saved before are kept). Try a smaller learning_rate, and --restart"
        )
    monitor, _ = monitored(params, results)
    if best and best.monitor != monitor:
        raise UserError(
            f"the best checkpoint so far was chosen by {best.monitor}, but now {monitor} is monitored: "
            f'put "monitor" into params.json, or start over with --restart'
        )


def warn_if_no_better_than_most_frequent_class(best, dataloader, params):
    """Log a warning if the best validation accuracy of a run is not above that of always predicting the same class.

    Nothing is logged if another metric is monitored, or if the classes of the validation data are unknown. `best` is
    the Best of the run, or None; `dataloader` has the validation data.
    """
    share = share_of_most_frequent_class(getattr(dataloader, "dataset", None), params)
    if best is not None and best.monitor == "accuracy" and share is not None and best.value <= share:
        logging.warning(
            "The best val accuracy, %.4f, is no better than always predicting the most frequent class (%.4f): the "
            "model has learned nothing useful. Check learning_rate, inputs and labels; preflight.py finds many causes.",
            best.value,
            share,
        )


def share_of_most_frequent_class(dataset, params):
    """Return the share of the most frequent class in the validation data, a float, or None if it is unknown.

    The classes are those in the attribute `labels` or `targets` of the dataset, or those that dataset.json counts.
    """
    labels = getattr(dataset, "labels", getattr(dataset, "targets", ()))
    try:
        labels = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    except (TypeError, ValueError):
        labels = np.array(())
    if labels.ndim == 1 and labels.size and np.issubdtype(labels.dtype, np.integer):
        return np.unique(labels, return_counts=True)[1].max() / len(labels)
    counts = getattr(params, "counts", {})
    counts = list(counts.get("val", {}).values()) if isinstance(counts, dict) else []
    if not counts or not all(isinstance(count, int) for count in counts) or getattr(params, "num_folds", 0):
        return None  # another kind of dataset, or counts of another split
    return max(counts) / sum(counts)
