"""The optimizers are torch's, number for number, without the second that they take to start."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import train
from toolkit.core.optimizers import optimizer_of
from utils import Params, UserError

OPTIMIZERS = ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "NAdam", "Adadelta", "LBFGS"]
SCRIPT = """
import sys, torch
if sys.argv[1] == "ours":
    from toolkit.core.optimizers import without_compiler
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


@pytest.mark.slow
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
    optimizer = optimizer_of(model, params)
    (group,) = optimizer.param_groups
    assert bool(group["fused"]) is (kind == "real") and group["lr"] == 0.01
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


def chosen(tmp_path, **values):
    (tmp_path / "params.json").write_text(json.dumps(values))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    return optimizer_of(model, Params(tmp_path / "params.json"))


def test_any_of_torchs_optimizers_is_taken_by_name_with_its_own_arguments(tmp_path):
    arguments = {"momentum": 0.9, "nesterov": True}
    optimizer = chosen(tmp_path, optimizer="SGD", optimizer_arguments=arguments, learning_rate=0.5)
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.9 and optimizer.defaults["lr"] == 0.5


def test_weight_decay_is_not_of_biases_and_norms(tmp_path):
    matrices, vectors = chosen(tmp_path, optimizer="AdamW", weight_decay=0.1).param_groups
    assert [p.ndim for p in matrices["params"]] == [4, 2] and matrices["weight_decay"] == 0.1
    assert [p.ndim for p in vectors["params"]] == [1, 1, 1, 1] and vectors["weight_decay"] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam'; did you mean Adam?"),
        ({"optimizer": "Best"}, "optimizer is 'Best'; torch.optim has .*, Adam, .*SGD"),
        ({"optimizer": "lr_scheduler"}, "torch.optim has"),
        ({"optimizer": "LBFGS"}, "LBFGS computes the loss several times a step"),
        ({"optimizer_arguments": {"momentum": 0.9}}, "torch.optim.Adam refuses its arguments: .*momentum"),
        ({"optimizer": "SGD", "optimizer_arguments": {"momentum": -1}}, "refuses its arguments: Invalid momentum"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        chosen(tmp_path, **values)


@pytest.mark.parametrize("is_module", [True, False])
def test_sparse_gradients_are_trained_on_where_torch_takes_them(tmp_path, is_module):
    """They come from an embedding, or from a function in forward, which is known after the first step only."""

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 2, sparse=is_module)

        def forward(self, words):
            if is_module:
                return self.embedding(words).mean(1)
            return nn.functional.embedding(words, self.embedding.weight, sparse=True).mean(1)

    words = torch.randint(0, 50, (16, 4))
    found = []
    for optimizer in ("SGD", None):
        (tmp_path / "params.json").write_text(json.dumps({"optimizer": "SGD", "learning_rate": 0.1, "batch_size": 8}))
        params = Params(tmp_path / "params.json")
        torch.manual_seed(0)
        model = Words()
        chosen = optimizer_of(model, params) if optimizer else torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(TensorDataset(words, words[:, 0] % 2), 8)
        train.train(model, chosen, nn.functional.cross_entropy, loader, {}, params)
        found.append(model.embedding.weight.detach())
    assert torch.equal(*found)


def test_an_optimizer_that_takes_no_sparse_gradients_is_refused_before_it_is_made(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    message = "optimizer Adam does not take the sparse gradients .* choose one of SGD, Adagrad, SparseAdam"
    with pytest.raises(UserError, match=message):
        optimizer_of(nn.Embedding(5, 2, sparse=True), Params(tmp_path / "params.json"))
