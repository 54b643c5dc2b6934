"""The monitored metric: the validation result that selects the best checkpoint."""

import math

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
