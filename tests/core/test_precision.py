"""The arithmetic that params.json asks for is the one that is computed in."""

import json

import pytest
import torch
from conftest import ROOT, run_process

from toolkit.core.forward_pass import autocast, gradient_scaler, set_arithmetic
from utils import Params


@pytest.fixture
def params(tmp_path):
    def params(**values):
        (tmp_path / "params.json").write_text(json.dumps(values))
        return Params(tmp_path / "params.json")

    return params


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16), ("auto", torch.float32)],
)
def test_matrix_products_are_of_the_precision_and_weights_stay_float32(params, precision, dtype):
    model, chosen = torch.nn.Linear(3, 2), params(precision=precision)
    with autocast(chosen, model):
        assert model(torch.ones(1, 3)).dtype == dtype  # auto: a CPU is not a GPU that is fast in bf16
    assert model.weight.dtype == torch.float32
    assert gradient_scaler(chosen, model).is_enabled() is (precision == "fp16")


def test_deterministic_is_of_a_run_and_not_of_the_next_one_in_the_process(params):
    for wanted in (True, False):
        set_arithmetic(params(deterministic=wanted))
        assert torch.are_deterministic_algorithms_enabled() is wanted
        assert torch.backends.cudnn.benchmark is not wanted


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_and_its_checkpoint_is_an_ordinary_one(experiment, tmp_path):
    values = {"architecture": "DenseNet", "hidden_sizes": [16], "dropout_rate": 0, "num_epochs": 1}
    losses = []
    for compiled in (True, False):
        experiment.write(**values, compile=compiled)
        done = run_process("python", ROOT / "train.py", *experiment.arguments, "--restart")
        assert done.returncode == 0, done.stderr
        losses.append(experiment.metrics("metrics_val_best_weights.json"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    compiled = experiment.folder / "replaced-1" / "best.pth.tar"
    done = run_process(
        "python", ROOT / "evaluate.py", *experiment.arguments, "--split", "val", "--restore_file", compiled
    )
    assert done.returncode == 0, done.stderr
    assert experiment.metrics("metrics_val_replaced-1_best.json") == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_without_a_compiler_the_error_says_how_to_go_on(experiment, tmp_path):
    experiment.write(compile=True, num_epochs=1)
    environment = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = run_process("python", ROOT / "train.py", *experiment.arguments, env=environment)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith('(remove "compile": true from params.json to train without torch.compile)')
