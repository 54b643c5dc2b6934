"""verify.py --reproduce: a run is trained again from its record, and the results are compared."""

import json
import re
import shutil
import sys

import pytest
from conftest import ROOT, Experiment, copy_of, optional, run_process
from project_kinds import LOADER, NET

from train import main as train
from verify import main as verify


def run(script, *arguments, **options):
    return run_process(sys.executable, ROOT / script, *arguments, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits_dir):
    """A project with a model of its own, and in it an experiment that was stopped in its second epoch."""
    project = tmp_path_factory.mktemp("project")
    (project / "model").mkdir()
    (project / "model" / "net.py").write_text(NET)
    (project / "model" / "data_loader.py").write_text(LOADER)
    experiment = Experiment(project / "experiment", digits_dir)
    done = run("train.py", *experiment.arguments, "--max_steps", 30)
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def project(trained, tmp_path):
    return copy_of(trained, tmp_path / "project")


def test_the_same_numbers_come_out_to_the_bit(project, call):
    done = run("verify.py", "--reproduce", project / "experiment")
    assert (done.returncode, done.stderr) == (0, "")
    marks = [line.split()[:2] for line in done.stdout.splitlines()[:5]]
    assert [name for _, name in marks] == ["code", "data", "hyperparameters", "versions", "machine"]
    assert {mark for mark, _ in marks} == {"✓"}
    assert "Reproduced: the 9 numbers of history.csv and the weights are identical to the last bit." in done.stdout
    again = project / "experiment" / "reproduced-1"
    assert (again / "history.csv").read_bytes() == (project / "experiment" / "history.csv").read_bytes()
    code, out, _ = call(optional("synthesize_results").main, "--parent_dir", project)
    assert (code, "1 experiment: 1 stopped" in out) == (0, True)  # the fresh run is no experiment of its own


def test_params_json_may_have_changed_since(project, call):
    folder = project / "experiment"
    values = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(values | {"learning_rate": 0.02, "num_epochs": 5}))
    code, out, error = call(verify, "--reproduce", folder)
    assert (code, error) == (0, "")
    assert "✓ hyperparameters  as recorded; params.json now has another learning_rate, num_epochs" in out
    assert "identical to the last bit" in out


def test_another_loss_function_is_named_and_gives_other_numbers(project, call):
    net = NET.replace("return F.cross_entropy(outputs, labels)", "return F.cross_entropy(outputs, labels) * 2")
    assert net != NET
    (project / "model" / "net.py").write_text(net)
    code, out, error = call(verify, "--reproduce", project / "experiment")
    assert code == 2
    assert "✗ code " in out and "net.py" in out.splitlines()[0]
    assert "not reproduced: train_loss of epoch 1 is " in error and "the likely cause is marked with ✗ above" in error


def test_other_data_is_named(project, call, digits_dir, tmp_path):
    data = copy_of(digits_dir, tmp_path / "other")
    facts = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(facts | {"fingerprint": "0" * 64}))
    _, out, _ = call(verify, "--reproduce", project / "experiment", "--data_dir", data)
    assert f"✗ data             {data} has fingerprint 000000000, recorded is " in out


def test_a_run_that_began_with_the_weights_of_another(project, call, digits_dir):
    experiment = Experiment(project / "finer", digits_dir)
    weights = project / "experiment" / "best.pth.tar"
    assert call(train, *experiment.arguments, "--restore_file", weights, "--max_steps", 3)[0] == 0
    code, out, error = call(verify, "--reproduce", experiment.folder)
    assert (code, error) == (0, "")
    assert "✓ first weights    as recorded" in out
    assert "Reproduced: the weights are identical to the last bit." in out


def test_the_weights_it_began_with_are_found_where_a_restart_moved_them_and_others_are_told(project, call, digits_dir):
    experiment = Experiment(project / "finer", digits_dir)
    experiment.write(num_epochs=1)
    for options in ([], ["--restart", "--restore_file", "best"]):
        assert call(train, *experiment.arguments, *options)[0] == 0
    code, out, _ = call(verify, "--reproduce", experiment.folder, "--quiet")
    assert code == 0 and "✓ first weights" in out
    assert out.splitlines()[-1].startswith("Reproduced: ")  # --quiet or not
    assert "Training" not in out
    shutil.copy(project / "experiment" / "best.pth.tar", experiment.folder / "replaced-1" / "best.pth.tar")
    code, out, error = call(verify, "--reproduce", experiment.folder)
    assert code == 2 and "✗ first weights" in out and "not reproduced" in error


def test_a_schedule_for_other_epochs_is_told(project, call, digits_dir):
    experiment = Experiment(project / "longer", digits_dir)
    for epochs in (1, 2):
        experiment.write(num_epochs=epochs, lr_schedule="cosine")
        assert call(train, *experiment.arguments)[0] == 0
    code, out, error = call(verify, "--reproduce", experiment.folder)
    assert code == 2 and re.search(r"✗ hyperparameters  num_epochs was 1, and 2 from step \d+ on", out)
    assert "the likely cause is marked with ✗ above" in error


@pytest.mark.slow
def test_code_of_a_session_whose_steps_were_lost_is_not_that_of_the_run(project, digits_dir):
    net = (project / "model" / "net.py").read_text()
    crash = "\n\ncalls = []\nsound = loss_fn\n\n\ndef loss_fn(outputs, labels):\n    calls.append(1)\n"
    crash += "    return sound(outputs, labels) if len(calls) < 9 else 1 / 0\n"
    (project / "model" / "net.py").write_text(net + crash)
    experiment = Experiment(project / "mended", digits_dir)
    experiment.write(num_epochs=1)
    assert run("train.py", *experiment.arguments).returncode == 1
    (project / "model" / "net.py").write_text(net)
    assert run("train.py", *experiment.arguments).returncode == 0
    assert len(json.loads((experiment.folder / "run.json").read_text())["sessions"]) == 2
    done = run("verify.py", "--reproduce", experiment.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "✓ code" in done.stdout


@pytest.mark.slow
def test_a_module_beside_model_is_code_too(project, call, digits_dir):
    (project / "helper_of_the_net.py").write_text("FACTOR = 1\n")
    net = project / "model" / "net.py"
    net.write_text("import helper_of_the_net\n" + net.read_text())
    experiment = Experiment(project / "helped", digits_dir)
    experiment.write(num_epochs=1)
    assert run("train.py", *experiment.arguments).returncode == 0
    (project / "helper_of_the_net.py").write_text("FACTOR = 2\n")
    out = call(verify, "--reproduce", experiment.folder)[1]
    assert "✗ code             model/../helper_of_the_net.py" in out


def test_a_record_that_is_damaged_or_of_data_without_a_fingerprint_claims_no_more_than_is_known(project, call):
    folder = project / "experiment"
    edit(folder, dataset={})
    rows = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text(rows + rows.splitlines()[1].replace("1,", "2,", 1) + "\n")
    (folder / "last.pth.tar").write_bytes(b"damaged")  # the one before it is there, of fewer steps
    code, out, error = call(verify, "--reproduce", folder)
    assert "– data             not recorded" in out
    assert code == 2 and "not reproduced: the new run ended after epoch 1 of 2" in error


def test_another_number_of_threads_is_told(project):
    done = run("verify.py", "--reproduce", project / "experiment", env={"OMP_NUM_THREADS": "2"})
    assert "✗ machine " in done.stdout and "threads: 1, now " in done.stdout


def edit(folder, **values):
    """Change entries of run.json."""
    (folder / "run.json").write_text(json.dumps(json.loads((folder / "run.json").read_text()) | values))


def begins_later(folder):
    """Take the first session out of run.json."""
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    edit(folder, sessions=[session | {"first_step": 12}])


MISTAKES = {
    "no record": (
        lambda folder: (folder / "run.json").unlink(),
        "run.json: no such file; train.py writes it",
    ),
    "an old record": (
        lambda folder: (folder / "run.json").write_text("{}"),
        "run.json: incomplete, or written by an early version",
    ),
    "a session that is none": (
        lambda folder: edit(folder, sessions=[{"files": {}, "device": 3}]),
        "run.json: incomplete",
    ),
    "no beginning": (begins_later, "the beginning of the run is missing"),
    "params that are none": (lambda folder: edit(folder, params=7), "run.json: incomplete"),
    "nothing left": (
        lambda folder: [
            (folder / name).unlink(missing_ok=True) for name in ("last.pth.tar", "previous.pth.tar", "history.csv")
        ],
        "there is nothing to compare with, neither last.pth.tar nor history.csv",
    ),
    "a failed start": (
        lambda folder: (folder / "run.json").write_text('{"sessions": [{"failed": ""}], "params": {}, "steps": 3}'),
        "run.json: incomplete",
    ),
    "a new key": (
        lambda folder: (folder / "params.json").write_text('{"my_key": 1}'),
        "my_key: not in the recorded run; remove what was added",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_a_line(project, call, mistake):
    change, message = MISTAKES[mistake]
    change(project / "experiment")
    code, _, error = call(verify, "--reproduce", project / "experiment")
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert not (project / "experiment" / "reproduced-1").exists()


@pytest.mark.parametrize("factor, code", [(1.001, 0), (1.1, 2)])
def test_with_other_versions_numbers_may_differ_in_the_last_digits_only(project, call, factor, code):
    folder = project / "experiment"
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    edit(folder, sessions=[session | {"versions": session["versions"] | {"numpy": "1.0"}}])
    header, row = (folder / "history.csv").read_text().splitlines()
    cells = row.split(",")
    place = header.split(",").index("val_loss")
    cells[place] = str(float(cells[place]) * factor)
    (folder / "history.csv").write_text(f"{header}\n{','.join(cells)}\n")
    found, out, error = call(verify, "--reproduce", folder)
    assert found == code
    assert "Reproduced, but not to the last bit: 8 of the 9 numbers" in out if code == 0 else "not reproduced" in error
