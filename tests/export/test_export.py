"""Tests of export.py: a file computes what the network does, for batches of any size, or it is not written."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, optional, run_process, snapshot
from project_kinds import append, wine_project
from sklearn.datasets import load_wine

import export
import train
from toolkit.core.image_dataset import load_images
from toolkit.export.comparison import compare, real_inputs
from utils import UserError

FILES = {"model.onnx", "model.pt2"}
# a network with random outputs, and one whose control flow depends on the values in a tensor
RANDOM = "\n\nclass Random(Net):\n    def forward(self, x):\n        return F.dropout(super().forward(x))\n"
RANDOM += "\n\nNet = Random\n"
ASKING = "\n\nclass Asking(Net):\n    def forward(self, x):\n        y = super().forward(x)\n"
ASKING += "        return y * 2 if y.sum() > 0 else y\n\n\nNet = Asking\n"
LAZY = "\n\nclass Lazy(Net):\n    def __init__(self, params):\n        super().__init__(params)\n"
LAZY += (
    "        self.last = nn.LazyLinear(3)\n\n    def forward(self, x):\n        return self.last(super().forward(x))\n"
)
LAZY += "\n\nNet = Lazy\n"


@pytest.fixture
def trained(call, experiment):
    """Return an experiment trained with augmentation, EMA weights and batch normalization."""
    experiment.write(random_shift=1, random_flip=True, ema_decay=0.9, compile=False)
    assert call(train.main, *experiment.arguments)[0] == 0
    return experiment


def arguments(experiment):
    return "--model_dir", experiment.folder, "--data_dir", experiment.data_dir


def test_both_files_give_the_labels_of_predict_for_raw_images(call, trained, tmp_path):
    code, out, err = call(export.main, *arguments(trained))
    assert (code, err) == (0, "")
    assert out.count("| 100.00% ") == 2
    assert call(export.main, *arguments(trained))[0] == 0  # again
    images, _ = load_images(trained.data_dir, "test", 32)
    call(optional("predict").main, "--model_dir", trained.folder, trained.data_dir / "test", "--output", "labels.csv")
    expected = [line.split(",")[1] for line in (tmp_path / "labels.csv").read_text().splitlines()[1:]]

    file = trained.folder / "model.onnx"
    onnx.checker.check_model(onnx.load(file), full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.shape, given.type) == (["batch", 1, 8, 8], "tensor(uint8)")
    meta = session.get_modelmeta().custom_metadata_map
    class_names = json.loads(meta["dataset"])["class_names"]
    assert json.loads(meta["epoch"]) == 2
    for batch in images.split([1, 2, len(images) - 3]):
        (logits,) = session.run(None, {given.name: batch.numpy()})
        assert [class_names[i] for i in logits.argmax(axis=1)] == expected[: len(batch)]
        expected = expected[len(batch) :]

    extra = {"metadata.json": ""}
    network = torch.export.load(trained.folder / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["dataset"]["class_names"] == class_names
    (logits,) = session.run(None, {given.name: images.numpy()})
    assert np.allclose(network(images).detach().numpy(), logits, atol=1e-4)
    assert network(images[:1]).shape == (1, 10)


def test_nested_inputs_and_outputs(call, tmp_path):
    folder = wine_project(tmp_path / "my_task", "nested")
    call(train.main, "--model_dir", folder)
    code, _, err = call(export.main, "--model_dir", folder)
    assert (code, err) == (0, "")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [given.shape for given in session.get_inputs()] == [["batch", 4], ["batch", 9]]


def test_samples_are_counted_by_labels_if_another_dimension_of_the_inputs_comes_first():
    def time_first(samples):
        inputs, labels = zip(*samples, strict=True)
        return torch.stack(inputs, dim=1), torch.stack(labels)

    def fetch_dataloader(types, data_dir, params):
        samples = [(torch.zeros(5), torch.tensor(0))] * 16
        loader = torch.utils.data.DataLoader(samples, params.batch_size, collate_fn=time_first)
        return dict.fromkeys(types, loader)

    task, params = SimpleNamespace(fetch_dataloader=fetch_dataloader), SimpleNamespace(batch_size=4)
    batches, sizes = real_inputs(task, "test", None, params)
    assert sizes == [4] * 4 + [1] * 8 + [7, 7, 2]
    assert [inputs.shape for inputs in batches] == [(5, size) for size in sizes]


def test_a_difference_in_a_small_output_is_found_beside_a_large_one():
    def model(x):
        return {"logits": x, "size": 1e4 * x}

    def other(x):
        return {"logits": x + 0.1, "size": 1e4 * x}

    message = (
        r"x: not kept, because it does not compute what the model does: .* absolute difference: 0\.1\d* at .*allowed"
    )
    with pytest.raises(UserError, match=message) as error:
        compare(model, other, [torch.ones(3, 2)], "x")
    assert "\n" not in str(error.value)
    assert compare(model, model, [torch.ones(3, 2)], "x") == (0, 1)


def test_infinite_and_boolean_outputs_are_compared():
    def model(x):
        return {"logits": x.log(), "is_large": x > 1}

    def other(x):
        return {"logits": x.log(), "is_large": x > 0}

    zeros_and_ones = [torch.tensor([[0.0, 1.0], [0.0, 0.0]])]
    assert compare(model, model, zeros_and_ones, "x") == (0, 1)
    with pytest.raises(UserError, match="x: not kept"):
        compare(model, other, zeros_and_ones, "x")


@pytest.mark.parametrize(
    ("network", "kind", "message"),
    [
        (RANDOM, "torch", "model.pt2: not kept, because it does not compute what the model does: "),
        (RANDOM, "onnx", "model.onnx: not kept, because it does not compute what the model does: "),
        (ASKING, "torch", "this model cannot be exported at my_task/model/net.py:{last}: GuardOn"),
        (ASKING, "onnx", "this model cannot be exported at my_task/model/net.py:{last}: GuardOn"),
    ],
)
def test_a_model_that_cannot_be_exported_exactly_leaves_no_file(call, tmp_path, network, kind, message):
    folder = wine_project(tmp_path / "my_task")
    append(tmp_path / "my_task" / "model" / "net.py", network)
    assert call(train.main, "--model_dir", folder)[0] == 0
    before = snapshot(folder)
    code, _, err = call(export.main, "--model_dir", folder, "--format", kind)
    assert code == 2
    lines = (tmp_path / "my_task" / "model" / "net.py").read_text().split("\n")
    last = next((number for number, line in enumerate(lines, start=1) if "y.sum() > 0" in line), None)
    assert err.startswith(f"error: {message.format(last=last)}")
    assert err.count("\n") == 1
    assert snapshot(folder) == before


def test_a_network_with_lazy_layers_is_exported_and_predicts(call, tmp_path):
    folder = wine_project(tmp_path / "my_task", "new_files")
    append(tmp_path / "my_task" / "model" / "net.py", LAZY)
    assert call(train.main, "--model_dir", folder)[0] == 0
    code, out, err = call(export.main, "--model_dir", folder)
    assert (code, err) == (0, "") and out.count("| 100.00% ") == 2
    np.savetxt("new_wines.csv", load_wine(return_X_y=True)[0], delimiter=",")
    code, _, err = call(optional("predict").main, "--model_dir", folder, "new_wines.csv")
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_a_missing_package_is_named(call, trained, monkeypatch):
    for package in ("onnx", "onnxruntime"):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, package, None)
            code, _, err = call(export.main, *arguments(trained))
        assert (code, err) == (2, f"error: model.onnx needs {package}: pip install {package}\n")
    # in a process of its own, because torch imports onnxscript only once
    without = "import sys; sys.modules['onnxscript'] = None; import export; export.run_script(export.main)"
    done = run_process(sys.executable, "-c", without, *arguments(trained), cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, "error: model.onnx needs onnxscript: pip install onnxscript\n")
    assert call(export.main, *arguments(trained), "--format", "torch")[0] == 0
    assert FILES & {file.name for file in trained.folder.iterdir()} == {"model.pt2"}
