"""Run all checks. A check is a function of the Experiment that returns a message, or raises Failed or NotApplicable.

Any other exception becomes one line that names the place in the user's code.
"""

import time
import traceback

import utils
from toolkit.core.memory import memory_errors_in_a_line
from toolkit.core.user_code import place_of
from toolkit.preflight import data_checks, model_checks, training_checks
from toolkit.preflight.experiment import Failed, NotApplicable
from utils import UserError

CHECKS = {
    "model and data": data_checks.check_parts,
    "inputs and labels": data_checks.check_batches,
    "loading speed": data_checks.check_speed,
    "shuffling": data_checks.check_shuffling,
    "input scale": model_checks.check_input_scale,
    "initial loss": model_checks.check_initial_loss,
    "gradients": model_checks.check_gradients,
    "independent samples": model_checks.check_independence,
    "train and eval mode": model_checks.check_modes,
    "dead units": model_checks.check_dead_units,
    "reproducibility": training_checks.check_reproducibility,
    "learning rate": training_checks.check_learning_rate,
    "overfit 16 samples": training_checks.check_overfitting,
}
NEEDED = ("model and data", "inputs and labels")  # if one of these checks fails, all later ones are skipped


def run_checks(experiment):
    """Run all checks. Yield a dict with "check", "ok" (None: does not apply), "message" and "seconds" for each.

    Raises:
        UserError: data, model or optimizer cannot be made; train.py would end with the same error.
    """
    failed = None
    for name, check in CHECKS.items():
        started = time.monotonic()
        try:
            if failed:
                raise NotApplicable(f'skipped; correct "{failed}" first')
            with memory_errors_in_a_line(experiment.params):
                ok, message = True, check(experiment)
        except NotApplicable as reason:
            ok, message = None, str(reason)
        except (Failed, UserError) as error:
            if isinstance(error, UserError) and name == "model and data":
                raise
            ok, message = False, str(error)
        except Exception as error:
            ok, message = False, describe_error(error)
        if ok is False and name in NEEDED:
            failed = name
        yield {"check": name, "ok": ok, "message": message, "seconds": round(time.monotonic() - started, 2)}


def describe_error(error):
    """Return an exception as one line that ends with the place in the user's code where it was raised."""
    lines = str(error).strip().splitlines() or [""]
    # the message of an error in a data-loader worker contains its traceback
    line = lines[-1] if "Traceback" in str(error) else f"{type(error).__name__}: {lines[0]}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{line} ({place_of(error) or f'{utils.relative(frame.filename)}:{frame.lineno}'})"
