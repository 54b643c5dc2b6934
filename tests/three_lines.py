"""CS230's three lines, run as a script or notebook of one's own would run them."""

import os
import sys

from conftest import ROOT, run_process

THREE_LINES = """
import sys
import torch
import utils
import model.net as net
import model.data_loader as data_loader

params = utils.Params(sys.argv[1])
loaders = data_loader.fetch_dataloader(["train", "val"], sys.argv[2], params)
model = net.Net(params)

batch = next(iter(loaders["train"]))
inputs, labels = getattr(net, "unpack_batch", tuple)(batch)
arguments = [params] if net.loss_fn.__code__.co_argcount == 3 else []
loss = net.loss_fn(model(inputs), labels, *arguments)
(loss["loss"] if isinstance(loss, dict) else loss).backward()
torch.optim.SGD(model.parameters(), lr=params.learning_rate).step()
print("trained a step")
"""


def three_lines(tmp_path, project, experiment, data_dir):
    """Run CS230's three lines in a script of another folder, with a project's model/ on the path."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "notebook.py").write_text(THREE_LINES)
    path = os.pathsep.join([str(project), str(ROOT)])
    arguments = [elsewhere / "notebook.py", experiment / "params.json", data_dir]
    done = run_process(sys.executable, *arguments, cwd=elsewhere, env={"PYTHONPATH": path})
    assert (done.returncode, done.stdout) == (0, "trained a step\n"), done.stderr
