"""The optimizers are torch's, number for number, without the second that they take to start."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from toolkit.optim import adam
from utils import Params

OPTIMIZERS = ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "Adadelta", "LBFGS"]
SCRIPT = """
import sys, torch
if sys.argv[1] == "ours":
    from toolkit.optim import without_compiler
    without_compiler()
    without_compiler()  # a second call changes nothing
for name in sys.argv[2:]:
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    inputs = torch.randn(8, 5)
    def closure():
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss
    for step in range(4):
        optimizer.step(closure)
        schedule.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]}) if name != "LBFGS" else None
    print(name, model.weight.double().sum().item().hex(), torch.is_grad_enabled())
print("compiler", "torch._dynamo" in sys.modules)
"""


def test_the_steps_are_those_of_torch_and_the_compiler_is_not_imported():
    ours, theirs = (
        subprocess.run(
            [sys.executable, "-c", SCRIPT, who, *OPTIMIZERS], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        for who in ("ours", "theirs")
    )
    assert ours[:-1] == theirs[:-1] and len(ours) == len(OPTIMIZERS) + 1
    assert (ours[-1], theirs[-1]) == ("compiler False", "compiler True")


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_the_default_is_adam_fused_where_it_can_be(tmp_path, kind):
    (tmp_path / "params.json").write_text('{"learning_rate": 0.01}')
    params = Params(tmp_path / "params.json")
    model = nn.Linear(5, 3)
    model.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    if kind == "complex":
        model.turn = nn.Parameter(torch.ones(1, dtype=torch.complex64))
    optimizer = adam(model, params)
    (group,) = optimizer.param_groups
    assert group["fused"] is (kind == "real") and group["lr"] == 0.01
    assert len(group["params"]) == 2 + (kind == "complex")
    plain = nn.Linear(5, 3)
    plain.load_state_dict(model.state_dict(), strict=False)
    other = torch.optim.Adam(plain.parameters(), lr=0.01)
    for _ in range(3):
        for each, its_optimizer in ((model, optimizer), (plain, other)):
            its_optimizer.zero_grad()
            (each(torch.ones(2, 5)).square().mean() + getattr(each, "turn", torch.zeros(1)).abs().sum()).backward()
            its_optimizer.step()
    assert torch.allclose(model.weight, plain.weight, atol=1e-6)
