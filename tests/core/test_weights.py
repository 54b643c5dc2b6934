"""Weights of a checkpoint that would not be themselves in the model are refused, in a line that names them."""

import pytest
import torch
from torch import nn

import utils
from utils import UserError


def saved(folder, **weights):
    state = nn.Linear(3, 2).state_dict() | weights
    torch.save({"epoch": 1, "state_dict": state, "optim_dict": {}}, folder / "last.pth.tar")
    return folder / "last.pth.tar"


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), "weight is torch.float64 there and torch.float32 in the model"),
        (torch.zeros(2, 3, dtype=torch.int64), "weight is torch.int64 there and torch.float32 in the model"),
        (torch.zeros(2, 3, dtype=torch.complex64), "weight is torch.complex64 there and torch.float32 in the model"),
        (torch.zeros(2, 3).to_sparse(), "weight is torch.sparse_coo there and torch.strided in the model"),
        (torch.zeros(2, 3, device="meta"), "weight is without values there and with values in the model"),
        (torch.zeros(3), r"weight is \(3,\) there and \(2, 3\) in the model"),
        ("text", r"weight is str there and \(2, 3\) in the model"),
        (torch.full((2, 3), torch.nan), "weight contains NaN"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path, weight, message):
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(UserError, match=f"last.pth.tar: .*{message}"):
        utils.load_checkpoint(saved(tmp_path, weight=weight), model)
    assert torch.equal(model.weight, before)


def test_half_precision_is_taken_because_no_digit_is_lost(tmp_path):
    model = nn.Linear(3, 2)
    utils.load_checkpoint(saved(tmp_path, weight=torch.ones(2, 3, dtype=torch.bfloat16)), model)
    assert torch.equal(model.weight, torch.ones(2, 3))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: nn.DataParallel(torch.compile(net))])
def test_weights_that_were_saved_through_a_wrapper_are_taken(tmp_path, wrap):
    model, other = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2))
    state = wrap(model).state_dict()
    assert not any(name in model.state_dict() for name in state)
    torch.save({"state_dict": state}, tmp_path / "weights.pth.tar")
    utils.load_checkpoint(tmp_path / "weights.pth.tar", other)
    assert torch.equal(other[0].weight, model[0].weight)


def test_a_module_that_is_called_module_keeps_its_name(tmp_path):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(3, 2)

    model, other = Wrapper(), Wrapper()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth.tar")
    utils.load_checkpoint(tmp_path / "weights.pth.tar", other)
    assert torch.equal(other.module.weight, model.module.weight)


def test_a_lazy_network_takes_the_shapes_of_the_checkpoint(tmp_path):
    model = nn.LazyLinear(2)
    utils.load_checkpoint(saved(tmp_path), model)
    assert model.weight.shape == (2, 3) and model(torch.ones(1, 3)).shape == (1, 2)
