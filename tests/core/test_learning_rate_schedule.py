"""The learning rate at each step, beside torch's own schedules; what patience counts."""

import json
import math

import pytest
import torch

from toolkit.core.learning_rate_schedule import Progress, learning_rate_factor
from utils import Params

EPOCHS, STEPS = 6, 5  # and how many steps each has


@pytest.fixture
def params(tmp_path):
    def params(**values):
        (tmp_path / "params.json").write_text(json.dumps({"num_epochs": EPOCHS} | values))
        return Params(tmp_path / "params.json")

    return params


def ours(params):
    return [learning_rate_factor(params, step, STEPS, 0) for step in range(EPOCHS * STEPS)]


def theirs(make, every=1):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule, rates = make(optimizer), []
    for step in range(1, EPOCHS * STEPS + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0:
            schedule.step()
    return rates


schedules = torch.optim.lr_scheduler


def test_the_numbers_are_those_of_torchs_schedules(params):
    total = EPOCHS * STEPS
    assert ours(params()) == [1] * total
    cosine = theirs(lambda o: schedules.CosineAnnealingLR(o, total))
    assert ours(params(lr_schedule="cosine")) == pytest.approx(cosine)
    step = theirs(lambda o: schedules.StepLR(o, 2, 0.3), every=STEPS)
    assert ours(params(lr_schedule="step", lr_decay_epochs=2, lr_decay_factor=0.3)) == pytest.approx(step)
    cycle = theirs(
        lambda o: schedules.OneCycleLR(o, 1.0, total_steps=total + 1, cycle_momentum=False, pct_start=9 / 31)
    )
    assert ours(params(lr_schedule="one_cycle", warmup_steps=9))[:9] == pytest.approx(cycle[:9])
    cycle = theirs(
        lambda o: schedules.OneCycleLR(o, 1.0, total_steps=total + 1, cycle_momentum=False, pct_start=9 / total)
    )
    assert max(ours(params(lr_schedule="one_cycle"))) == 1
    assert ours(params(lr_schedule="one_cycle"))[0] == pytest.approx(cycle[0])
    assert ours(params(lr_schedule="one_cycle"))[-1] == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize("kind", ["constant", "cosine", "step", "plateau"])
def test_a_warmup_rises_to_the_schedule(params, kind):
    rates = ours(params(lr_schedule=kind, warmup_steps=4))
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_a_plateau_is_so_many_epochs_without_a_better_result(params):
    progress = Progress(params(lr_schedule="plateau", lr_decay_epochs=2, early_stopping_patience=4))
    found = []
    for value in (0.5, 0.6, 0.6, 0.59, 0.7, 0.1, 0.2, 0.7, 0.6):
        progress.update(value, "max")
        found.append((progress.decays, progress.epochs_without_improvement, progress.is_over))
    assert found == [
        (0, 0, False),
        (0, 0, False),
        (0, 1, False),
        (1, 2, False),
        (1, 0, False),
        (1, 1, False),
        (2, 2, False),
        (2, 3, False),
        (3, 4, True),
    ]
    falling = Progress(params())
    for value in (3, 2, 2.5):
        falling.update(value, "min")
    assert (falling.epochs_without_improvement, falling.is_over) == (1, False)
    undefined = Progress(params())
    for value in (math.nan, 0.5, math.nan):
        undefined.update(value, "max")
    assert (undefined.epochs_without_improvement, undefined.best) == (1, 0.5)
    decayed = params(lr_schedule="plateau", lr_decay_factor=0.5)
    assert learning_rate_factor(decayed, 3, STEPS, decays=2) == 0.25
