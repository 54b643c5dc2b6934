"""The learning-rate range test: train while the learning rate rises, and see at which rates the loss falls."""

import itertools
import math
import time

from toolkit.core.curves import png
from toolkit.preflight.experiment import Trainer

LOWEST, HIGHEST = 1e-6, 100  # learning rates
STEPS, FEWEST_STEPS = 120, 24  # from the lowest to the highest rate; fewer if steps are slow
SMOOTHING = 0.9  # decay of the moving average of the losses
DIVERGED = 3  # the test ends when the loss is this many times the first loss


def run_range_test(experiment, seconds):
    """Train for about `seconds` while the learning rate rises exponentially.

    After L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), https://arxiv.org/abs/1506.01186,
    section 3.3. The suggested rate is a tenth of the one at which the smoothed loss is lowest, as in J. Howard and S.
    Gugger, "fastai: A Layered API for Deep Learning" (2020).

    Returns:
        dict with "rates" and "losses" (smoothed), lists of floats; "suggested", a rate, or None if the loss did not
        fall and rise; "diverges", the rate from which on the loss is not below the first one, or None.
    """
    trainer, rates, losses, smoothed, started = Trainer(experiment), [LOWEST], [], 0.0, None
    trainer.scale_learning_rate(LOWEST / experiment.params.learning_rate)
    batches = itertools.chain.from_iterable(experiment.batches(epoch=epoch) for epoch in itertools.count(1))
    for step, (_, _, loss) in enumerate(trainer.train(batches)):
        smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss.item()
        losses.append(smoothed / (1 - SMOOTHING ** (step + 1)))  # corrects the bias to the initial 0
        if rates[-1] > HIGHEST or not losses[-1] <= losses[0] + (DIVERGED - 1) * abs(losses[0]):  # true for NaN, too
            break
        started = started or time.monotonic()  # after the first step, which takes longer and does not count
        step_time = (time.monotonic() - started) / max(step, 1)
        factor = (HIGHEST / LOWEST) ** max(1 / STEPS, min(step_time / seconds, 1 / FEWEST_STEPS))
        trainer.scale_learning_rate(factor)
        rates.append(rates[-1] * factor)
    lowest = losses.index(min(filter(math.isfinite, losses), default=losses[0]))
    above = [rate for rate, loss in zip(rates[lowest:], losses[lowest:], strict=True) if not loss < losses[0]]
    falls = losses[lowest] < losses[0] - 0.01 * abs(losses[0]) and lowest < len(losses) - 1  # and rises again
    suggested, diverges = rates[lowest] / 10 if falls else None, above[0] if above else None
    return {"rates": rates, "losses": losses, "suggested": suggested, "diverges": diverges}


def plot_range_test(result, own_rate):
    """Return a picture of a range test with the suggested rate and the experiment's own, the bytes of a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    top = result["losses"][0] + DIVERGED * abs(result["losses"][0])  # the last loss may be many times that
    axes.plot(result["rates"], [min(loss, top) for loss in result["losses"]], color="tab:blue")
    axes.axvline(own_rate, color="tab:gray", linestyle="--", label=f"params.json: {own_rate:.2g}")
    if result["suggested"]:
        axes.axvline(result["suggested"], color="tab:green", label=f"suggested: {result['suggested']:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed", title="Learning-rate range test")
    axes.legend()
    axes.grid(alpha=0.3)
    return png(figure)
