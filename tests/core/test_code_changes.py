"""A run whose model/ was edited between two sessions is not resumed, nor evaluated, without a word."""

import pytest
from project_kinds import LOADER, NET, own_model

import evaluate
import train
import utils

CHANGES = {
    "the network": ({"net": NET.replace("F.relu(self.linear1", "F.gelu(self.linear1")}, ["model/net.py: ", "F.gelu("]),
    "the loader": (
        {"loader": LOADER.replace("pixels = self.images.permute", "pixels = self.images.flip(-1).permute")},
        ["model/data_loader.py: ", "'pixels = self.images.permute(0, 2, 3, 1)' is now "],
    ),
    "a new line": ({"net": NET + "\nLIMIT = 3\n"}, ["model/net.py: 'LIMIT = 3' was added"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_code_is_refused_and_named_and_can_be_accepted(call, experiment, name):
    sources, messages = CHANGES[name]
    assert {"net": NET, "loader": LOADER} | sources != {"net": NET, "loader": LOADER}
    own_model(experiment)
    experiment.write(num_epochs=1)
    assert call(train.main, *experiment.arguments, "--max_steps", 3)[0] == 0
    own_model(experiment, **sources)
    code, _, err = call(train.main, *experiment.arguments)
    assert (code, err.count("\n")) == (2, 1)
    for message in [*messages, "last.pth.tar: was trained with other code", "--accept_code_changes", "--restart"]:
        assert message in err
    assert utils.read_checkpoint(experiment.folder / "last.pth.tar")["step"] == 3
    code, out, err = call(train.main, *experiment.arguments, "--accept_code_changes")
    assert (code, err) == (0, "") and f"The code has changed since {experiment.folder}" in out
    assert call(evaluate.main, *experiment.arguments)[0] == 0  # the rest was trained with today's code
    own_model(experiment)
    code, _, err = call(evaluate.main, *experiment.arguments)
    assert code == 2 and "best.pth.tar: was trained with other code" in err
    assert call(evaluate.main, *experiment.arguments, "--accept_code_changes")[0] == 0


def test_comments_docstrings_and_formatting_do_not_count(call, experiment):
    own_model(experiment)
    assert call(train.main, *experiment.arguments, "--max_steps", 3)[0] == 0
    spaced = NET.replace("    def forward", "\n\n    # why\n    def forward").replace("self, params", "self,params")
    own_model(experiment, net=f'"""Another sentence."""\n\n{spaced.partition(chr(10))[2]}')
    code, _, err = call(train.main, *experiment.arguments)
    assert (code, err) == (0, "")
    assert call(evaluate.main, *experiment.arguments)[0] == 0


def test_a_module_that_the_network_imports_counts(call, experiment):
    for factor in (1, 2):
        (experiment.folder.parent / "factor_of_net.py").write_text(f"FACTOR = {factor}\n")
        own_model(experiment, net=f"import factor_of_net\n{NET}")
        code, _, err = call(train.main, *experiment.arguments, "--max_steps", 3)
        assert code == 2 * (factor - 1)
    assert "model/../factor_of_net.py: 'FACTOR = 1' is now 'FACTOR = 2'" in err


def test_a_checkpoint_from_before_code_was_kept_is_resumed(call, experiment):
    import torch

    assert call(train.main, *experiment.arguments, "--max_steps", 3)[0] == 0
    file = experiment.folder / "last.pth.tar"
    state = utils.read_checkpoint(file)
    del state["code"]
    torch.save(state, file)
    assert call(train.main, *experiment.arguments)[0] == 0
