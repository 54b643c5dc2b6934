"""Which result of an evaluation selects the best checkpoint."""

import math

from utils import UserError

MODES = dict.fromkeys(["accuracy", "f1", "precision", "recall", "auroc", "r2"], "max")
MODES |= dict.fromkeys(["loss", "rmse", "mae"], "min")  # where monitor_mode does not say which is better


def is_better(value, best, mode):
    """Whether `value` is at least as good as `best` (of equals the later is taken, as in CS230's template)."""
    if math.isnan(value):
        return best is None
    if best is None or math.isnan(best):
        return True
    return value >= best if mode == "max" else value <= best


def monitored(params, results):
    """Which of the results of an evaluation selects the best checkpoint, and in which direction.

    Args:
        params: hyperparameters: `monitor` and `monitor_mode`; where they are not given, accuracy, else loss.
        results: the names of the results, "loss" and the metrics.

    Returns:
        (name, "max" or "min")

    Raises:
        UserError: there is no such result, or its direction cannot be known.
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


def check_results(results, best, epoch, optimizer, params):
    """Make sure that an epoch's results can be compared with those before.

    Args:
        results: those of the validation, a dict from name to float.
        best: the Best so far, or None.
        epoch: the epoch's number.
        optimizer: for the learning rate, in the message.
        params: hyperparameters.

    Raises:
        UserError: the loss is NaN, or `params.monitor` is none of the results, or another one than before.
    """
    if math.isnan(results["loss"]):
        raise UserError(
            f"the validation loss became nan in epoch {epoch}, with learning rate {optimizer.param_groups[0]['lr']:g}; "
            f"stopped (what was saved before is kept). Try a smaller learning_rate, and --restart"
        )
    monitor, _ = monitored(params, results)
    if best and best.monitor != monitor:
        raise UserError(
            f"the best checkpoint so far was chosen by {best.monitor}, and now it would be by {monitor}: "
            f'put "monitor" into params.json, or begin anew with --restart'
        )
