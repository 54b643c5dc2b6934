"""What has to hold on a CUDA GPU. Where it means something on a CPU, too, it is tested on both."""

import contextlib
import functools
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import IMAGES, Experiment, optional
from project_kinds import differences, outcome
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import evaluate
import train
import utils
from toolkit.core.device_batches import batches_on_device
from toolkit.core.memory import memory_errors_in_a_line, peak_memory
from toolkit.core.run import Run
from toolkit.core.setup import set_up
from toolkit.core.sized_batches import join_last_sample
from toolkit.core.task import import_model_package
from toolkit.core.totals import Totals
from utils import UserError

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it; read when it begins

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]
on_gpu = pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
everywhere = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
AUGMENTED = {"random_shift": 1, "random_flip": True}
WITH_ALL = {
    "accumulation_steps": 2,
    "max_grad_norm": 1.0,
    "ema_decay": 0.9,
    "lr_schedule": "cosine",
    "warmup_steps": 5,
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "balanced": True,
    "precision": "fp16",
}


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """The digits, or squares of ten shades if scikit-learn is not installed."""
    builder, sources = optional("toolkit.datasets.builder"), optional("toolkit.datasets.sources")
    target = tmp_path_factory.mktemp("data") / "digits"
    try:
        builder.build(sources.digits(), target)
    except ImportError:
        pixels = np.random.default_rng(0).integers(0, 60, (1800, 8, 8, 1))
        items = [
            sources.Item(str(n % 10), f"{n:04d}", (p + 20 * (n % 10)).astype(np.uint8)) for n, p in enumerate(pixels)
        ]
        shades = sources.Source(lambda: items, [str(n) for n in range(10)], 1, (8, 8), {"kind": "shades"})
        builder.build(shades, target)
    return target


def prepared(experiment, device, streamed=False, **values):
    """What train.py makes of an experiment, as attributes; `streamed`: its data does not stay on the GPU."""
    experiment.write(**values)
    task, params, data_dir = set_up(experiment.folder, experiment.data_dir, device)
    utils.set_seed(params.seed)
    params.device = "cpu" if streamed else device
    loaders = task.fetch_dataloader(["train", "val"], data_dir, params)
    params.device = device
    utils.set_seed(params.seed)
    model = task.make_model(params)
    return SimpleNamespace(
        task=task,
        params=params,
        loaders=loaders,
        model=model,
        loss_fn=task.loss_fn(params),
        optimizer=task.make_optimizer(model, params),
        folder=experiment.folder,
    )


def epochs_of(ours, around=contextlib.nullcontext):
    """Train and evaluate all epochs, each in the context that `around()` gives. Returns their results, a list of dicts."""
    results, rest = [], (ours.task.metrics, ours.params)
    with Run(ours.model, ours.optimizer, ours.params, ours.folder, restart=True) as run:
        for epoch in run.epochs():
            with around():
                trained = train.train(ours.model, ours.optimizer, ours.loss_fn, ours.loaders["train"], *rest, run=run)
                with run.evaluation():
                    tested = evaluate.evaluate(ours.model, ours.loss_fn, ours.loaders["val"], *rest)
            run.record(epoch, trained, tested)
            results += [trained, tested]
    return results


@contextlib.contextmanager
def waiting(mode):
    """What waits for the GPU is an error ("error"), or not ("default")."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def may_wait(method):
    """A method as one that may wait for the GPU."""

    @functools.wraps(method)
    def wrapper(*arguments):
        with waiting("default"):
            return method(*arguments)

    return wrapper


@on_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("values", [{}, {"precision": "bf16"}, WITH_ALL], ids=["plain", "bf16", "all"])
def test_no_step_waits_for_the_gpu(experiment, device, streamed, values, monkeypatch):
    ours = prepared(experiment, device, streamed, **AUGMENTED, **values)
    sampler = type(ours.loaders["train"].sampler)
    # the order at the beginning of an epoch, readings of the loss, and what comes after the last step
    for owner, name in ((sampler, "__iter__"), (Totals, "_read_losses"), (Totals, "compute")):
        monkeypatch.setattr(owner, name, may_wait(getattr(owner, name)))
    epochs_of(ours)  # what is made and chosen once may wait
    results = epochs_of(ours, lambda: waiting("error"))
    assert all(np.isfinite(list(result.values())).all() for result in results)
    with pytest.raises(RuntimeError, match="synchroniz"), waiting("error"):  # it would have been noticed
        next(ours.model.parameters()).sum().item()


@everywhere
@pytest.mark.parametrize("values", [{}, WITH_ALL], ids=["plain", "all"])
def test_data_that_stays_and_data_that_streams_give_the_same_numbers(experiment, device, values):
    values = {"deterministic": True} | AUGMENTED | values
    stays, streams = (prepared(experiment, device, streamed, **values) for streamed in (False, True))
    assert stays.loaders["train"].dataset.images.device.type == device
    assert streams.loaders["train"].dataset.images.device.type == "cpu"
    assert (stays.loaders["train"].pin_memory, streams.loaders["train"].pin_memory) == (False, device == "cuda")
    assert epochs_of(stays) == epochs_of(streams)


@everywhere
@pytest.mark.parametrize("values", [{}, {"num_folds": 3, "fold": 1}])
def test_a_batch_on_the_gpu_is_that_of_the_cpu_and_makes_no_copy_of_the_rest(experiment, device, values):
    here, there = (prepared(experiment, where, batch_size=16, **values) for where in ("cpu", device))
    for split, loader in there.loaders.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = peak_memory(device)
        both = (epoch_of(loaders[split], here.params) for loaders in (here.loaders, there.loaders))
        for one, other in zip(*both, strict=True):
            assert other.device.type == device and one.stride() == other.stride()
            assert torch.equal(one, other.cpu())
        if device == "cuda" and split == "train":
            assert peak_memory(device) - before < loader.dataset.images.nbytes / 2


def epoch_of(loader, params):
    """Yield the images of an epoch, batch by batch."""
    utils.set_seed(params.seed)
    for images, _ in loader:
        yield images


@everywhere
def test_copies_beside_the_step_change_no_number(device):
    """Batches as large as the memory of those before, which a copy that comes too early would overwrite."""
    count, width = (20, 2**22) if device == "cuda" else (5, 2**10)
    rows = torch.randint(0, 256, (count, width), dtype=torch.uint8)
    expected = rows.sum(1)
    model, busy = nn.Linear(1, 1).to(device), torch.rand(width // 2**10, width // 2**10, device=device)
    loader = DataLoader(TensorDataset(rows, torch.arange(count)), 1, pin_memory=device == "cuda")
    sums = []
    for inputs, labels in batches_on_device(loader, model.train()):
        for _ in range(10):  # what keeps the GPU from reading the inputs soon
            busy = busy @ busy / width
        sums.append((inputs.sum(), labels))
        del inputs, labels
    assert [total.item() for total, _ in sums] == expected.tolist()
    assert [label.item() for _, label in sums] == list(range(count))


@everywhere
def test_a_lone_last_sample_is_joined(device):
    loader = DataLoader(TensorDataset(torch.arange(9.0)[:, None], torch.arange(9)), 4, pin_memory=device == "cuda")
    batches = join_last_sample(loader)
    batches = [labels.tolist() for _, labels in batches_on_device(batches, nn.Linear(1, 1).to(device))]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]


@everywhere
@pytest.mark.parametrize("values", [{}, WITH_ALL], ids=["plain", "all"])
def test_a_run_that_was_stopped_goes_on_exactly(call, experiment, tmp_path, device, values):
    other = Experiment(tmp_path / "other", experiment.data_dir)
    for one in (experiment, other):
        one.write(num_epochs=3, deterministic=True, **AUGMENTED, **values)
    arguments = ["--device", device]  # the last one counts
    assert call(train.main, *experiment.arguments, *arguments)[0] == 0
    for steps in (["--max_steps", 5], ["--max_steps", 19], []):
        assert call(train.main, *other.arguments, *arguments, *steps)[0] == 0
    assert differences(outcome(experiment.folder), outcome(other.folder)) == []


@everywhere
def test_the_gpu_computes_what_the_cpu_does(experiment, device):
    """In float64, in which no two devices round alike, but all round little."""
    results = []
    for where in ("cpu", device):
        ours = prepared(experiment, where, dropout_rate=0.0)
        ours.model.double()
        ours.optimizer = ours.task.make_optimizer(ours.model, ours.params)
        results.append(epochs_of(ours))
    for one, other in zip(*results, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


@everywhere
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(experiment, device, precision):
    results = epochs_of(
        prepared(experiment, device, precision=precision, num_epochs=4, num_channels=8, dropout_rate=0.1)
    )
    assert results[-1]["loss"] < 0.5 * results[0]["loss"]


@everywhere
@pytest.mark.parametrize("line", ["outputs = model(inputs)  # forward", "optimizer.step()  # update the weights"])
def test_out_of_memory_in_any_line_of_the_step_is_said_in_a_line(experiment, device, line):
    ours = prepared(experiment, device)
    greedy = lambda *_: torch.empty(2**52, dtype=torch.uint8, device=device)  # noqa: E731
    if line.startswith("outputs"):
        ours.model.register_forward_pre_hook(greedy)
    else:
        ours.optimizer.register_step_pre_hook(greedy)
    with pytest.raises(UserError) as found, memory_errors_in_a_line(ours.params):
        epochs_of(ours)
    assert re.fullmatch(
        rf"{device}: out of memory while training with batch_size 64: [\d.]+ GiB was the peak, .* more "
        rf'was asked for, [\d.]+ GiB is the total; try "batch_size": 32 .*',
        str(found.value),
    )


@pytest.mark.parametrize(
    "first, second", [("cpu", "cpu"), pytest.param("cpu", "cuda", marks=gpu), pytest.param("cuda", "cpu", marks=gpu)]
)
def test_a_checkpoint_goes_on_and_is_evaluated_on_another_device(call, experiment, first, second):
    experiment.write(num_epochs=2)
    assert call(train.main, *experiment.arguments, "--device", first, "--max_steps", 30)[0] == 0  # in the second epoch
    assert call(train.main, *experiment.arguments, "--device", second)[0] == 0
    assert call(evaluate.main, *experiment.arguments, "--device", first, "--split", "val")[0] == 0
    then, now = (experiment.metrics(f"metrics_val_{name}.json") for name in ("best_weights", "best"))
    assert now == pytest.approx(then, rel=0.01)


@on_gpu
def test_a_gpu_is_named_by_its_number(call, experiment, device):
    code, out, err = call(train.main, *experiment.arguments, "--device", f"{device}:0")
    assert (code, err) == (0, "")
    assert f"parameters, on {device}:0" in out
    code, _, err = call(train.main, *experiment.arguments, "--device", f"{device}:99")
    assert code == 2
    assert "--device cuda:99: not there; this machine has cuda:0" in err


@everywhere
def test_the_peak_is_logged(call, experiment, device):
    code, out, _ = call(train.main, *experiment.arguments, "--device", device)
    assert code == 0
    said = float(re.search(r"Peak memory: ([\d.]+) GB", out)[1])
    assert said <= peak_memory(device) / 1e9 + 0.01
    lines = (experiment.folder / "speed.csv").read_text().splitlines()
    assert lines[0] == "epoch,samples_per_second,peak_memory_mb"
    assert all(0 < float(line.split(",")[2]) < 1000 * said + 10 for line in lines[1:])


@everywhere
def test_a_script_that_runs_out_of_memory_ends_in_a_line(call, experiment, tmp_path, device):
    shutil.copytree(IMAGES / "model", tmp_path / "project" / "model")
    net = tmp_path / "project" / "model" / "net.py"
    folder = Path(shutil.copytree(experiment.folder, tmp_path / "project" / "experiment"))
    line = "        x = self.pixels(images)  # (B, C, H, W)\n"
    assert line in net.read_text()

    def run(main, greedy, *more):
        net.write_text((IMAGES / "model" / "net.py").read_text().replace(line, f"        {greedy}\n{line}"))
        import_model_package(IMAGES / "model")  # so that the changed one is imported anew
        return call(main, *experiment.arguments, "--model_dir", folder, "--device", device, *more)

    code, _, err = run(train.main, "images.new_empty(2**52) if self.training else None")
    assert code == 2
    assert re.fullmatch(rf"error: {device}: out of memory while training with batch_size 64: .*; try .*\n", err)
    assert run(train.main, "")[0] == 0
    code, _, err = run(evaluate.main, "images.new_empty(2**52)", "--accept_code_changes")
    assert code == 2
    assert re.fullmatch(rf"error: {device}: out of memory while evaluating with batch_size 64: .*; try .*\n", err)
