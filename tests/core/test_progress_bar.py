"""What is shown while an epoch is under way: a bar on a terminal, lines elsewhere, nothing with --quiet."""

import contextlib
import logging
import os
import re
import struct
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, run_process

from toolkit.core import progress_bar as bar
from toolkit.core.totals import Totals
from train import main as train
from utils import Params, set_logger

fcntl = pytest.importorskip("fcntl", reason="Windows has no such terminals")
pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")


def on_a_terminal(*command):
    """What a command prints on a terminal of 120 columns: (exit code, the text)."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment, stdout=end, stderr=end)
    os.close(end)
    text = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(terminal, 65536):
            text += part
    os.close(terminal)
    return process.wait(), text.decode()


def test_a_terminal_gets_a_bar_with_loss_metric_speed_and_time_left(experiment):
    experiment.write(num_epochs=1, batch_size=4, save_summary_steps=20)
    code, text = on_a_terminal(sys.executable, ROOT / "train.py", *experiment.arguments)
    assert code == 0
    drawn = [line for line in re.split(r"[\r\n]", text) if "epoch 1/1 training" in line]
    pattern = r"epoch 1/1 training +\d+%\|.*\| *\d+/360 \[\d\d:\d\d<\d\d:\d\d, loss \d\.\d{4}, accuracy \d\.\d{4}, [\d,]+ images/s\]"
    assert any(re.search(pattern, line) for line in drawn), drawn


def test_the_time_left_of_an_epoch_gone_on_with_counts_the_batches_since(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    epoch = bar.EpochBar("training", 1000)
    epoch.skip(900)
    epoch.bar.start_t -= 10  # ten seconds for ten batches
    epoch.bar.last_print_t -= 10
    epoch.update(40, batches=10)
    rate = epoch.bar.format_dict["rate"]
    drawn = str(epoch.bar)
    epoch.close()
    assert rate == pytest.approx(1, rel=0.05)
    assert "910/1000" in drawn and re.search(r"<01:(2\d|30)", drawn), drawn


@pytest.mark.parametrize("labels", [torch.zeros(4, 7, dtype=torch.int64), torch.zeros(4)])
def test_speed_is_of_samples_though_the_loss_counts_words(tmp_path, labels):
    (tmp_path / "params.json").write_text("{}")
    totals = Totals("training", {}, 1, Params(tmp_path / "params.json"))
    totals.bar.started -= 1000  # seconds
    loss = torch.tensor(0.5)
    loss.num_counted = torch.tensor(labels.numel())
    totals.update(torch.zeros(4, 7, 2), labels, loss, 4)
    totals.compute()
    assert totals.samples_per_second == pytest.approx(4 / 1000, rel=0.01)


@pytest.mark.slow
def test_quiet_leaves_results_and_the_log(experiment):
    done = run_process(sys.executable, ROOT / "train.py", *experiment.arguments, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "Best epoch" in (experiment.folder / "train.log").read_text()
    code, text = on_a_terminal(sys.executable, ROOT / "evaluate.py", *experiment.arguments, "--quiet")
    assert code == 0
    assert text.startswith("| split ")
    assert "%|" not in text and "Written" not in text


def test_warnings_are_not_quiet(experiment, call):
    experiment.write(my_key=1)
    code, out, _ = call(train, *experiment.arguments, "--quiet")
    assert (code, out) == (0, "params.json: my_key has no effect: no code has read it\n")


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_terminal_there_is_a_line_from_time_to_time(tmp_path, monkeypatch, capsys, quiet):
    monkeypatch.setattr(bar, "SECONDS_BETWEEN_LINES", 0)
    (tmp_path / "params.json").write_text('{"save_summary_steps": 2}')
    params = Params(tmp_path / "params.json")
    set_logger(quiet=quiet)
    outputs, labels = torch.eye(12), torch.arange(12)
    batches = list(zip(outputs.split(3), labels.split(3), strict=True))
    totals = Totals("training", {"accuracy": lambda o, lab: (o.argmax(1) == lab).mean()}, len(batches), params)
    for outputs, labels in batches:
        totals.update(outputs, labels, torch.tensor(0.5), len(labels))
    totals.compute()
    lines = capsys.readouterr().out.splitlines()
    logging.root.handlers = [handler for handler in logging.root.handlers if not getattr(handler, "ours", False)]
    assert len(lines) == (0 if quiet else 2)
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"training: batch {2 * number} of 4, loss 0.5000, accuracy 1.0000, [\d,]+ samples/s, \d\d:\d\d left", line
        )
