"""Sweeps, with real workers: what becomes of the trials, and of what goes wrong."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import optuna
import pytest
from conftest import IMAGES, ROOT, SMALL, optional, run_process, snapshot
from processes import Script, wait_for
from project_kinds import differences, outcome

import search_hyperparams
import toolkit.sweep.trial_process
import train
from toolkit.core.lock import ExperimentLock
from toolkit.sweep.storage import open_storage
from utils import Params

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="sends signals that Windows does not have")
TINY = SMALL | {"num_epochs": 3}


class SmallSweep:
    """A sweep's folder: `write(space, **params)`, `arguments(...)`, `trials()` from name to what its run.json says."""

    def __init__(self, folder, data_dir):
        self.folder, self.data_dir = folder, data_dir
        folder.mkdir(parents=True)

    def write(self, space=None, **values):
        (self.folder / "params.json").write_text(json.dumps(TINY | values))
        if space is not None:
            (self.folder / "search_space.json").write_text(space if isinstance(space, str) else json.dumps(space))
        return self

    def arguments(self, *more):
        return ["--parent_dir", self.folder, "--data_dir", self.data_dir, "--devices", "cpu", "--jobs", 2, *more]

    def trials(self):
        return {path.parent.name: json.loads(path.read_text()) for path in self.folder.glob("*/run.json")}

    def study(self):
        storage = open_storage(None, self.folder)
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
        return [trial for name in names for trial in optuna.load_study(study_name=name, storage=storage).get_trials()]

    def how(self, name):
        """How the trial's last session ended."""
        return {"finished", "pruned", "failed", "stopped"} & self.trials()[name]["sessions"][-1].keys()


@pytest.fixture
def sweep(tmp_path, digits_dir):
    return SmallSweep(tmp_path / "sweep", digits_dir)


def search(call, sweep, *more):
    return call(search_hyperparams.main, *sweep.arguments(*more))


def test_without_a_space_the_learning_rates_of_cs230_are_tried_and_every_trial_is_an_ordinary_experiment(
    call, sweep, experiment
):
    sweep.write()
    code, out, err = search(call, sweep)
    assert (code, err) == (0, "")
    assert sorted(sweep.trials()) == [f"learning_rate={rate}" for rate in ("0.0001", "0.001", "0.01")]
    assert "3 finished" in out
    best = max(sweep.trials().items(), key=lambda item: item[1]["best"]["value"])
    assert f"Best accuracy on val: {best[1]['best']['value']:.4f}, {sweep.folder / best[0]}" in out
    experiment.write(**TINY | {"learning_rate": 0.001})
    assert call(train.main, *experiment.arguments)[0] == 0
    assert not differences(outcome(experiment.folder), outcome(sweep.folder / "learning_rate=0.001"))
    assert (sweep.folder / "learning_rate=0.001" / "curves.png").exists()
    assert not list((sweep.folder / ".sweep").iterdir())


@pytest.mark.slow
def test_the_same_command_again_does_nothing_and_more_trials_add(call, sweep):
    sweep.write({"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}})
    assert search(call, sweep, "--method", "random", "--trials", 2)[0] == 0
    before = snapshot(sweep.folder)
    for trials in (2, 3):
        code, out, err = search(call, sweep, "--method", "random", "--trials", trials)
        assert (code, err) == (0, "")
        assert f"{trials} finished" in out
        assert len(sweep.trials()) == trials
        after = snapshot(sweep.folder)
        assert all(after[name] == content for name, content in before.items() if name != "study.journal")


@pytest.mark.slow
def test_seeds_and_folds_are_trials_of_their_own(call, sweep):
    sweep.write({"learning_rate": [0.01], "num_channels": [2, 4]}, num_epochs=1)
    assert search(call, sweep, "--seeds", 2)[0] == 0
    pairs = [f"learning_rate=0.01,num_channels={n}{seed}" for n in (2, 4) for seed in ("", ",seed=231")]
    assert sorted(sweep.trials()) == sorted(pairs)
    before = outcome(sweep.folder / pairs[0])
    assert search(call, sweep, "--seeds", 3)[0] == 0  # those that are there are kept
    assert len(sweep.trials()) == 6
    assert not differences(outcome(sweep.folder / pairs[0]), before)
    assert len(sweep.trials()[pairs[0]]["sessions"]) == 1
    code, out, _ = search(call, sweep, "--folds", 2)
    assert code == 0
    for fold in range(2):
        params = Params(sweep.folder / f"learning_rate=0.01,num_channels=2,fold={fold}" / "params.json").dict
        assert (params["num_folds"], params["fold"]) == (2, fold)
    assert "Best mean accuracy on val: " in out


def test_a_bad_trial_is_pruned_says_so_and_can_be_continued_by_hand(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02, 0.005, 0.03, 0.008, 1e-7, 2e-7]}, num_epochs=4)
    code, out, err = search(call, sweep, "--pruner", "median", "--jobs", 1)
    assert (code, err) == (0, "")
    assert sweep.how("learning_rate=0.01") == {"finished"}
    for name in ("learning_rate=1e-07", "learning_rate=2e-07"):
        assert sweep.how(name) == {"pruned"}
        assert sweep.trials()[name]["epochs"] == 1
    assert "after epoch 1 is too far behind other trials (median)" in (sweep.folder / name / "train.log").read_text()
    assert "learning_rate=2e-07: pruned: accuracy 0." in out
    assert [trial.state.name for trial in sweep.study()][-2:] == ["PRUNED", "PRUNED"]
    assert sorted(sweep.study()[0].intermediate_values) == [1, 2, 3, 4]
    code, table, _ = call(optional("synthesize_results").main, "--parent_dir", sweep.folder, "--no_plots")
    assert code == 0
    assert re.search(r"\| learning_rate=2e-07 +\| pruned +\| +1 \| ", table)
    assert "- learning_rate=2e-07: accuracy 0." in table
    code, out, _ = call(train.main, "--model_dir", sweep.folder / name, "--data_dir", sweep.data_dir)
    assert code == 0
    assert sweep.how(name) == {"finished"}
    assert sweep.trials()[name]["epochs"] == 4


@pytest.mark.slow
def test_failures_do_not_end_the_sweep_and_are_retried_by_the_same_command(call, sweep):
    sweep.write({"learning_rate": [0.01, 1e6, 0.02]}, num_epochs=1)
    own_model(sweep, "")
    net = sweep.folder / "model" / "net.py"
    code = net.read_text(encoding="utf-8")
    diverges = "F.cross_entropy(outputs * max(1, params.learning_rate) ** 7, labels)"  # 1e42 is infinite
    net.write_text(code.replace("F.cross_entropy(outputs, labels)", diverges), encoding="utf-8")
    for attempt in (1, 2):
        code, out, err = search(call, sweep)
        assert (code, err) == (1, "")
        assert "2 finished, 1 failed" in out
        assert sweep.how("learning_rate=1e+06") == {"failed"}
        error = sweep.trials()["learning_rate=1e+06"]["sessions"][-1]["error"]
        assert "loss became" in error
        assert f"learning_rate=1e+06: failed: {error}" in out
        assert [trial.state.name for trial in sweep.study()].count("FAIL") == attempt
        assert f"error: {error}" in (sweep.folder / "learning_rate=1e+06" / "train.log").read_text()
    assert out.count("[3/3]") == 1
    code, table, _ = call(optional("synthesize_results").main, "--parent_dir", sweep.folder, "--no_plots")
    assert code == 0
    assert re.search(r"\| learning_rate=1e\+06 +\| failed +\|", table)
    assert f"- learning_rate=1e+06: {error[:100]}" in table


def own_model(sweep, change):
    """Give the sweep a model/ of its own, whose Net runs the indented lines `change` first."""
    model = sweep.folder / "model"
    shutil.copytree(IMAGES / "model", model, dirs_exist_ok=True)
    with open(model / "net.py", "a", encoding="utf-8") as file:
        file.write(f"\n\nUnchangedNet = Net\n\n\ndef Net(params):{change or ''}\n    return UnchangedNet(params)\n")


def test_a_trial_whose_result_is_no_number_has_failed_and_another_is_the_best(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02]}, num_epochs=1, monitor="odd", monitor_mode="max")
    own_model(
        sweep,
        "\n    metrics['odd'] = lambda outputs, labels: float('nan' if params.learning_rate == 0.02 and len(labels) > 64 else 1)",
    )
    code, out, err = search(call, sweep)
    assert (code, err) == (1, "")
    assert "learning_rate=0.02: failed: odd is nan" in out
    assert "1 finished, 1 failed" in out
    assert f"Best odd on val: 1.0000, {sweep.folder / 'learning_rate=0.01'}" in out


def test_values_that_python_takes_for_equal_are_trials_of_their_own(call, sweep):
    sweep.write({"knob": [True, 1, 1.0, "1", 0, [1], [True], "", []]}, num_epochs=1, knob=0)
    own_model(sweep, '\n    print("knob is", repr(params.knob))')
    code, out, err = search(call, sweep)
    assert (code, err) == (0, "")
    assert "8 finished" in out
    knobs = {name: json.loads((sweep.folder / name / "params.json").read_text())["knob"] for name in sweep.trials()}
    assert sorted(map(repr, knobs.values())) == ["''", "'1'", "0", "1", "True", "[1]", "[True]", "[]"]
    assert all(
        f"knob is {value!r}\n" in (sweep.folder / name / "train.log").read_text() for name, value in knobs.items()
    )


def test_values_that_differ_after_the_fourth_digit_are_trials_of_their_own(call, sweep):
    sweep.write({"learning_rate": [0.0123451, 0.0123452]}, num_epochs=1)
    code, out, err = search(call, sweep)
    assert (code, err) == (0, "")
    assert len(sweep.trials()) == 2
    assert all(name.startswith("learning_rate=0.01235-") for name in sweep.trials())


@pytest.mark.slow
def test_asha_compares_trials_after_a_ninth_of_the_epochs(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02, 0.005, 1e-7, 2e-7, 3e-7]}, num_epochs=9)
    code, out, err = search(call, sweep, "--pruner", "asha", "--jobs", 1)
    assert (code, err) == (0, "")
    assert {sweep.trials()[name]["epochs"] for name in sweep.trials() if sweep.how(name) == {"pruned"}} >= {1}


@POSIX
@pytest.mark.slow
def test_a_worker_that_dies_costs_an_attempt_and_its_trial_is_gone_on_with(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02, 0.03]})
    own_model(
        sweep,
        """
    import os, pathlib
    deaths = {0.01: 1, 0.02: 9, 0.03: 0}[params.learning_rate]
    count = len(list(pathlib.Path().glob(f"died-{params.learning_rate}-*")))
    if count < deaths:
        pathlib.Path(f"died-{params.learning_rate}-{count}").touch()
        os.kill(os.getpid(), 11 if params.learning_rate == 0.02 else 9)
""",
    )
    code, out, err = search(call, sweep, "--retries", 2)
    assert (code, err) == (1, "")
    assert "2 finished, 1 failed" in out
    assert "learning_rate=0.01: its process was killed by SIGKILL (out of memory?); resuming it" in out
    assert out.count("learning_rate=0.02: its process was killed by SIGSEGV; resuming it") == 2
    assert "learning_rate=0.02: failed: its process was killed by SIGSEGV" in out
    assert sweep.trials()["learning_rate=0.02"]["sessions"][-1]["error"] == "its process was killed by SIGSEGV"
    assert sweep.how("learning_rate=0.01") == {"finished"}


@pytest.mark.slow
def test_workers_that_are_spawned_train_like_those_that_are_forked(call, sweep, monkeypatch):
    """As they are on macOS and Windows."""
    monkeypatch.setattr(toolkit.sweep.trial_process, "METHOD", "spawn")
    sweep.write({"learning_rate": [0.01, 0.02, 0.03]}, num_epochs=1)
    code, out, err = search(call, sweep, "--pruner", "median")
    assert (code, err) == (0, "")
    assert "3 finished" in out


def test_what_a_trial_prints_is_in_its_log_and_an_error_of_its_code_with_the_traceback(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02]})
    own_model(
        sweep,
        """
    print("printed by", params.learning_rate)
    if params.learning_rate == 0.02:
        {}["no such key"]
""",
    )
    code, out, err = search(call, sweep)
    assert (code, err) == (1, "")
    assert "printed by" not in out
    assert "learning_rate=0.02: failed: KeyError: 'no such key'" in out
    logs = {rate: (sweep.folder / f"learning_rate={rate}" / "train.log").read_text() for rate in ("0.01", "0.02")}
    assert logs["0.01"].count("printed by 0.01\n") == 1
    assert "0.02" not in logs["0.01"]
    assert "Traceback" in logs["0.02"]
    assert logs["0.01"].count("val_accuracy") == 1


@POSIX
def test_ctrl_c_saves_the_trials_and_the_same_command_goes_on_with_them(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02, 0.03]}, num_epochs=100_000)
    process = Script("search_hyperparams", *sweep.arguments())
    wait_for(process, lambda: len(list(sweep.folder.glob("*/history.csv"))) == 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, (out, err)
    assert "Stopping 2 trials, which save their state. Run the same command to resume." in out
    done = {name: run["epochs"] for name, run in sweep.trials().items()}
    assert sorted(done) == ["learning_rate=0.01", "learning_rate=0.02"]
    assert all(sweep.how(name) == {"stopped"} for name in done)
    assert not list(sweep.folder.glob("*/.lock"))
    epochs = max(done.values()) + 2
    sweep.write(num_epochs=epochs)
    code, out, err = search(call, sweep)
    assert (code, err) == (0, "")
    for name, run in sweep.trials().items():
        assert run["epochs"] == epochs
        assert len(run["sessions"]) == 1 + (name in done)


@POSIX
@pytest.mark.slow
def test_trials_whose_model_was_edited_are_only_continued_if_that_is_accepted(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02]}, num_epochs=100_000)
    own_model(sweep, "")
    process = Script("search_hyperparams", *sweep.arguments())
    wait_for(process, lambda: len(list(sweep.folder.glob("*/history.csv"))) == 2)
    process.send_signal(signal.SIGINT)
    process.communicate()
    sweep.write(num_epochs=max(run["epochs"] for run in sweep.trials().values()) + 1)
    net = sweep.folder / "model" / "net.py"
    net.write_text(net.read_text(encoding="utf-8").replace("F.relu", "F.gelu"), encoding="utf-8")
    code, out, err = search(call, sweep)
    assert (code, err) == (1, "")
    assert out.count("was trained with other code: model/net.py: ") == 2 and "--accept_code_changes" in out
    code, out, err = search(call, sweep, "--accept_code_changes")
    assert (code, err) == (0, "")
    assert "2 finished" in out


@POSIX
@pytest.mark.slow
def test_a_sweep_that_is_killed_with_its_workers_ends_as_if_it_had_not_been(call, sweep, tmp_path, digits_dir):
    space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "num_channels": [2, 4]}
    command = ["--method", "random", "--trials", 5]
    undisturbed = SmallSweep(tmp_path / "undisturbed" / "sweep", digits_dir).write(space)
    assert search(call, undisturbed, *command)[0] == 0
    sweep.write(space)
    for kills in range(3):
        process = Script("search_hyperparams", *sweep.arguments(*command))
        wait_for(process, lambda: list(sweep.folder.glob("*/.lock")))
        time.sleep(0.2 * kills)
        if kills == 1:
            locks = [json.loads(path.read_text()) for path in sweep.folder.glob("*/.lock") if path.stat().st_size]
            for lock in locks:
                os.kill(lock["pid"], signal.SIGKILL)
            time.sleep(0.3)
        process.kill()
        process.communicate()
    code, out, err = search(call, sweep, *command)
    assert (code, err) == (0, "")
    assert "5 finished" in out
    assert sorted(sweep.trials()) == sorted(undisturbed.trials())
    for name, run in sweep.trials().items():
        assert sum("finished" in session for session in run["sessions"]) == 1
        assert not differences(outcome(sweep.folder / name), outcome(undisturbed.folder / name))
    finished = [trial.user_attrs["experiment"] for trial in sweep.study() if trial.state.name == "COMPLETE"]
    assert sorted(finished) == sorted(undisturbed.trials())


@pytest.mark.slow
def test_trials_of_the_previous_version_and_half_drawn_ones_are_continued(call, sweep, tmp_path, digits_dir):
    """It queued trials to be retried, did not note the place of a new one, and could die before it noted an owner."""
    space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "num_channels": {"low": 1, "high": 9}}
    command = ["--method", "random", "--trials", 4]
    undisturbed = SmallSweep(tmp_path / "undisturbed" / "sweep", digits_dir).write(space, num_epochs=1)
    assert search(call, undisturbed, *command)[0] == 0
    sweep.write(space, num_epochs=1)
    (summary,) = optuna.get_all_study_summaries(open_storage(None, undisturbed.folder))
    trials = {trial.user_attrs["place"]: trial for trial in undisturbed.study()}
    study = optuna.create_study(
        storage=open_storage(None, sweep.folder), study_name=summary.study_name, direction="maximize"
    )

    def add(of, state, names=("learning_rate", "num_channels"), **attributes):
        params, distributions = (
            {n: values[n] for n in names} for values in (trials[of].params, trials[of].distributions)
        )
        study.add_trial(
            optuna.trial.create_trial(state=state, params=params, distributions=distributions, user_attrs=attributes)
        )

    running, waiting = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING
    add(0, running, owner="a process that was killed", experiment=trials[0].user_attrs["experiment"])
    add(1, running, names=["learning_rate"])
    add(2, running, names=[], owner="a process that was killed")
    add(2, waiting, place=2)
    add(3, running, names=["learning_rate"], owner="a process that was killed", place=3)
    code, out, err = search(call, sweep, *command)
    assert (code, err) == (0, "")
    assert "4 finished" in out
    assert sorted(sweep.trials()) == sorted(undisturbed.trials())
    for name in sweep.trials():
        assert not differences(outcome(sweep.folder / name), outcome(undisturbed.folder / name))


@pytest.mark.slow
def test_a_trial_waits_for_another_process_that_trains_the_same_configuration(call, sweep):
    sweep.write({"num_channels": {"low": 1, "high": 1}}, num_epochs=1)
    (sweep.folder / "num_channels=1").mkdir()
    lock = ExperimentLock(sweep.folder / "num_channels=1")
    lock.acquire()
    threading.Timer(4, lock.release).start()
    code, out, err = search(call, sweep, "--method", "random", "--trials", 2)
    assert (code, err) == (0, "")
    assert "2 finished" in out
    assert len(sweep.trials()["num_channels=1"]["sessions"]) == 1


@POSIX
@pytest.mark.slow
def test_two_processes_share_one_sweep(sweep):
    sweep.write({"learning_rate": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}, num_epochs=5)
    processes = [Script("search_hyperparams", *sweep.arguments("--jobs", 1)) for _ in range(2)]
    outs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert all(out.count(": accuracy ") >= 1 for out in outs)
    assert sum(out.count(": accuracy ") for out in outs) == 6
    assert all(len(run["sessions"]) == 1 for run in sweep.trials().values())
    assert len(sweep.trials()) == 6


@POSIX
@pytest.mark.slow
def test_nothing_is_trained_twice_at_once_if_the_locks_of_a_shared_sweep_are_deleted(sweep):
    sweep.write({"learning_rate": [0.01, 0.02, 0.03, 0.04]}, num_epochs=40)
    processes = [Script("search_hyperparams", *sweep.arguments("--jobs", 1)) for _ in range(2)]
    for count in (1, 2, 3):
        wait_for(processes[0], lambda count=count: len(list(sweep.folder.glob("*/history.csv"))) >= count)
        shutil.rmtree(sweep.folder / ".sweep", ignore_errors=True)
        (sweep.folder / ".study.journal.lock").unlink(missing_ok=True)
    outs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert sorted(sweep.trials()) == [f"learning_rate=0.0{number}" for number in (1, 2, 3, 4)]
    for run in sweep.trials().values():
        assert sum("finished" in session for session in run["sessions"]) == 1
        assert len({session["started"] for session in run["sessions"]}) == len(run["sessions"])
    values = {name: run["best"]["value"] for name, run in sweep.trials().items()}
    finished = [trial for trial in sweep.study() if trial.state.name == "COMPLETE"]
    assert all(trial.value == values[trial.user_attrs["experiment"]] for trial in finished)


@pytest.mark.slow
def test_tpe_with_one_worker_goes_the_same_way_again_and_learns(call, tmp_path, digits_dir):
    space = {"learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}}
    rates = []
    for name, method in (("one", "tpe"), ("two", "tpe"), ("three", "random")):
        one = SmallSweep(tmp_path / name, digits_dir).write(space, num_epochs=1, num_channels=1)
        assert search(call, one, "--trials", 11, "--jobs", 1, "--method", method)[0] == 0
        rates.append([trial.params["learning_rate"] for trial in one.study()])
    assert rates[0] == rates[1]
    assert rates[0][:10] == rates[2][:10]  # at random first
    assert rates[0][10] != rates[2][10]  # then by what was found


@pytest.mark.slow
def test_a_process_with_data_workers_can_train_a_trial(call, sweep):
    sweep.write({"learning_rate": [0.01]}, num_epochs=1, num_workers=1)
    own_model(sweep, "")
    loader = sweep.folder / "model" / "data_loader.py"
    loader.write_text(
        loader.read_text(encoding="utf-8").replace("pin_memory=pinned)", "num_workers=params.num_workers)"),
        encoding="utf-8",
    )
    code, _, err = search(call, sweep)
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_a_torn_line_in_the_journal_is_cut_off(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02]}, num_epochs=1)
    assert search(call, sweep, "--trials", 1)[0] == 0
    with open(sweep.folder / "study.journal", "ab") as journal:
        journal.write(b'{"op_code": 4, "worker_id')
    code, out, err = search(call, sweep, "--trials", 2)
    assert (code, err) == (0, "")
    assert "2 finished" in out


@pytest.mark.slow
def test_a_folder_that_holds_something_else_is_not_touched_and_the_other_trials_are_trained(call, sweep):
    sweep.write({"learning_rate": [0.01]}, num_epochs=1)
    assert search(call, sweep)[0] == 0
    before = snapshot(sweep.folder / "learning_rate=0.01")
    (sweep.folder / "learning_rate=0.02").touch()
    sweep.write({"learning_rate": [0.01, 0.02, 0.03]}, batch_size=32, num_epochs=1)
    code, out, err = search(call, sweep)
    assert (code, err) == (1, "")
    assert "learning_rate=0.01/params.json: is there already, with another batch_size; choose another folder" in out
    assert "learning_rate=0.02: failed: " in out
    assert "1 finished, 2 failed" in out
    assert snapshot(sweep.folder / "learning_rate=0.01") == before


def test_results_are_never_taken_for_those_of_another_learning_rate(call, sweep):
    sweep.write({"num_channels": [2]}, num_epochs=1)
    assert search(call, sweep)[0] == 0
    before = snapshot(sweep.folder / "num_channels=2")
    sweep.write(learning_rate=0.5, num_epochs=1)
    code, out, _ = search(call, sweep)
    assert code == 1
    assert "num_channels=2/params.json: is there already, with another learning_rate" in out
    assert snapshot(sweep.folder / "num_channels=2") == before


@pytest.mark.slow
def test_a_finished_trial_whose_folder_was_deleted_is_trained_again(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02]}, num_epochs=1)
    assert search(call, sweep)[0] == 0
    before = outcome(sweep.folder / "learning_rate=0.01")
    shutil.rmtree(sweep.folder / "learning_rate=0.01")
    for said in (1, 0):
        code, out, err = search(call, sweep)
        assert (code, err) == (0, "")
        assert out.count("learning_rate=0.01: finished before, but its folder was deleted; training it again") == said
        assert "2 finished" in out
    assert not differences(outcome(sweep.folder / "learning_rate=0.01"), before)
    assert len(sweep.trials()["learning_rate=0.02"]["sessions"]) == 1


@pytest.mark.slow
def test_a_sweep_can_be_renamed(call, sweep):
    sweep.write({"learning_rate": [0.01]}, num_epochs=1)
    assert search(call, sweep)[0] == 0
    sweep.folder = sweep.folder.rename(sweep.folder.with_name("renamed"))
    code, out, _ = search(call, sweep)
    assert code == 0
    assert "[1/1]" not in out


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_all_processes_of_the_sweep_saves_the_trials(sweep, name):
    """As `timeout`, a closed terminal or a scheduler send it."""
    sweep.write({"learning_rate": [0.01, 0.02]}, num_epochs=100_000)
    command = [sys.executable, ROOT / "search_hyperparams.py", *map(str, sweep.arguments())]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(list(sweep.folder.glob("*/history.csv"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == {"SIGTERM": 143, "SIGHUP": 129}[name], (out, err)
    assert all(sweep.how(trial) == {"stopped"} for trial in sweep.trials())
    assert not list(sweep.folder.glob("*/.lock"))
    for trial in sweep.trials():
        assert "Stopped by SIGTERM; saved " in (sweep.folder / trial / "train.log").read_text()


SPACES = {
    '{"learning_rate": [0.01}': "search_space.json: not valid JSON at line 1",
    "{}": 'search_space.json: no hyperparameters; give one, such as {"learning_rate": [1e-4, 1e-3, 1e-2]}',
    '{"_note": [1]}': "no hyperparameters",
    '{"learning_rate": []}': "learning_rate: values is [], should have at least 1 item",
    '{"learning_rate": 0.01}': "learning_rate: values is 0.01, should be a valid list; expected a list of values, or {",
    '{"learning_rate": [0.01, "0.1"]}': "learning_rate is '0.1', should be a valid number",
    '{"learning_rate": {"low": 0.1}}': "learning_rate: high is missing; expected a list of values, or {",
    '{"learning_rate": {"min": 1e-4, "max": 1e-1}}': "learning_rate: unknown key min (did you mean low?); unknown key max "
    "(did you mean high?); expected a list of values, or {",
    '{"learning_rate": {"low": "1e-4", "high": 1}}': 'learning_rate: low is "1e-4", should be a valid number',
    '{"loss": [NaN, 1]}': "loss has NaN or infinity; write null, or a large number",
    '{"bound": [1.0, Infinity]}': "bound has NaN or infinity; write null, or a large number",
    '{"lr": [0.1, 0.2]}': "unknown key lr; did you mean learning_rate? Add a key of your own to params.json, too",
    '{"monitor": ["accuracy", "loss"]}': "monitor cannot be searched: trials are compared by it",
    '{"hidden_size": {"values": [9], "when": {"architecture": []}}}': "hidden_size is searched when architecture is nothing",
    json.dumps(
        {name: list(range(1, 41)) for name in ("seed", "batch_size", "num_channels", "hidden_size")}
    ): "more than 100,000 combinations; list fewer, or use --method tpe",
    '{"learning_rate": {"low": 0.1, "high": 0.01}}': "learning_rate: low must be at most high",
    '{"learning_rate": {"low": 0, "high": 1, "log": true}}': "learning_rate: low must be at most high, and above 0 with log",
    '{"learning_rate": {"low": -1, "high": 1}}': "learning_rate is -1.0, should be greater than 0",
    '{"learning_rate": {"low": 0.1, "high": 1, "lgo": true}}': "learning_rate: unknown key lgo; expected a list of values",
    '{"learning_rate": {"low": 0.1, "high": 1, "log": 1}}': "learning_rate: log is 1, should be a valid boolean",
    '{"learning_rate": {"low": 0.1, "high": 1, "step": 2}}': "learning_rate: step must be at most high - low",
    '{"num_channels": {"low": 4, "high": 8.5}}': "num_channels is an integer; give integers for low, high and step",
    '{"num_channels": [4, 0]}': "num_channels is 0, should be greater than or equal to 1",
    '{"num_channles": [4, 8]}': "unknown key num_channles; did you mean num_channels?",
    '{"num_classes": [4, 8]}': "num_classes is a fact of the dataset, not a hyperparameter; remove it",
    '{"fold": [0, 1]}': "fold cannot be searched: use --folds",
    '{"hidden_size": {"values": [9], "when": {"architecture": "TwoLayerNet"}}}': "hidden_size is searched when "
    'architecture is "TwoLayerNet", which it never is',
    '{"hidden_size": {"values": [9], "when": {"no_key": 1}}}': 'hidden_size has "when" no_key, which is neither a list of values',
    '{"hidden_size": {"values": [9], "when": 3}}': "hidden_size: when is 3, should be a valid dictionary",
}


@pytest.mark.parametrize("space", SPACES)
def test_a_space_that_cannot_be_searched(call, sweep, space):
    sweep.write(space)
    before = snapshot(sweep.folder)
    code, _, err = search(call, sweep)
    assert SPACES[space] in err
    assert (code, err.count("\n"), snapshot(sweep.folder)) == (2, 1, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", 4], "--trials is 4, but the grid of .*search_space.json has 3 configurations"),
        (["--folds", 1], "--folds is 1; give 2 or more"),
        (["--devices", "7"], "--device cuda:7: not there; this machine has .*cpu"),
        (["--devices", "tpu"], "--device tpu: not there; this machine has .*cpu"),
        (
            ["--storage", "postgresql://nobody@localhost:1/none"],
            "--storage postgresql://nobody@localhost:1/none: cannot",
        ),
        (["--storage", "sqlite:////no/such/folder/x.db"], "--storage sqlite:////no/such/folder/x.db: cannot be used: "),
        (
            ["--storage", "postgresql+psycopg2://me:secret@localhost:1/none"],
            "psycopg2://me:...@localhost:1/none: cannot",
        ),
        (["--storage", "no url"], "--storage no url: cannot be used: "),
    ],
)
def test_what_cannot_be_asked_for(call, sweep, arguments, message):
    sweep.write({"learning_rate": [0.01, 0.02, 0.03]})
    before = snapshot(sweep.folder)
    code, _, err = search(call, sweep, *arguments)
    assert (code, err.count("\n"), snapshot(sweep.folder)) == (2, 1, before)
    assert re.search(message, err), err


def test_a_misspelled_sweep_is_suggested(call, sweep):
    sweep.write({"learning_rate": [0.01]})
    code, _, err = call(search_hyperparams.main, "--parent_dir", sweep.folder.with_name("sweeep"))
    assert (code, err.count("\n")) == (2, 1)
    assert f"did you mean {sweep.folder}?" in err


def test_what_the_sweep_lacks(call, sweep):
    code, _, err = search(call, sweep)
    assert (code, err.count("\n")) == (2, 1)
    assert "sweep/params.json: no such file; it holds what all trials of the sweep share" in err
    sweep.write(monitor="f2")
    code, _, err = search(call, sweep)
    assert (code, err.count("\n")) == (2, 1)
    assert "monitor is 'f2', but the metrics are loss, accuracy, macro_f1" in err
    sweep.write({"seed": [1, 2]})
    code, _, err = search(call, sweep, "--seeds", 2)
    assert (code, err.count("\n")) == (2, 1)
    assert "search_space.json already searches seed; remove one of the two" in err
    (sweep.folder / "search_space.json").unlink()
    sweep.write()
    shutil.copytree(ROOT / "tests" / "projects" / "classic" / "model", sweep.folder / "model")
    code, _, err = search(call, sweep, "--folds", 2)
    assert (code, err.count("\n")) == (2, 1)
    assert "data_loader.py does not declare num_folds and fold" in err
    assert snapshot(sweep.folder).keys() - {"params.json", "model"} == {
        name for name in snapshot(sweep.folder) if name.startswith("model/")
    }


def test_without_optuna_one_line_says_how_to_install_it(call, sweep, monkeypatch):
    sweep.write()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find_spec(name))
    code, _, err = search(call, sweep)
    assert (code, err) == (2, "error: sweeps need Optuna, which is not installed: pip install optuna\n")


def test_a_real_process_from_another_folder(sweep):
    sweep.write({"learning_rate": [0.01]}, num_epochs=1)
    done = run_process(sys.executable, ROOT / "search_hyperparams.py", *sweep.arguments(), cwd=sweep.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[1/1] learning_rate=0.01: accuracy 0." in done.stdout


def test_variables_that_a_job_of_torchrun_left_over_do_not_stop_a_sweep(sweep):
    sweep.write({"learning_rate": [0.01]}, num_epochs=1)
    left_over = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    process = Script("search_hyperparams", *sweep.arguments(), environment=left_over)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "[1/1] learning_rate=0.01: accuracy 0." in out


@pytest.mark.slow
def test_a_configuration_that_is_drawn_twice_is_trained_once(call, sweep):
    sweep.write({"num_channels": {"low": 1, "high": 2}}, num_epochs=1)
    code, out, err = search(call, sweep, "--method", "random", "--trials", 8)
    assert (code, err) == (0, "")
    assert "8 finished" in out
    assert sorted(sweep.trials()) == ["num_channels=1", "num_channels=2"]
    assert all(len(run["sessions"]) == 1 for run in sweep.trials().values())
    values = {name: run["best"]["value"] for name, run in sweep.trials().items()}
    assert all(trial.value == values[trial.user_attrs["experiment"]] for trial in sweep.study())


@pytest.mark.slow
def test_at_random_from_lists_no_configuration_is_drawn_twice(call, sweep):
    sweep.write({"num_channels": [1, 2, 3], "batch_size": [137, 300]}, num_epochs=1)
    assert search(call, sweep, "--method", "random", "--trials", 4)[0] == 0
    assert len(sweep.trials()) == 4
    assert search(call, sweep, "--method", "random")[0] == 0  # all of them
    assert len(sweep.trials()) == 6
    code, _, err = search(call, sweep, "--method", "random", "--trials", 7)
    assert (code, err.count("\n")) == (2, 1)
    assert "--trials is 7, but the grid of" in err


@pytest.mark.slow
def test_a_part_of_the_loss_can_be_searched_for(call, sweep):
    sweep.write({"num_channels": [1, 2]}, num_epochs=1, monitor="penalty", monitor_mode="min")
    own_model(sweep, "")
    net = sweep.folder / "model" / "net.py"
    parts = 'return {"loss": F.cross_entropy(outputs, labels), "penalty": outputs.pow(2).mean()}'
    net.write_text(
        net.read_text(encoding="utf-8").replace("return F.cross_entropy(outputs, labels)", parts), encoding="utf-8"
    )
    code, out, err = search(call, sweep)
    assert (code, err) == (0, "")
    values = {name: run["best"]["value"] for name, run in sweep.trials().items()}
    assert f"Best penalty on val: {min(values.values()):.4f}, {sweep.folder / min(values, key=values.get)}\n" in out


@pytest.mark.slow
def test_a_folder_with_an_odd_params_file_is_only_a_failed_trial(call, sweep):
    sweep.write({"learning_rate": [0.01, 0.02]}, num_epochs=1)
    (sweep.folder / "learning_rate=0.01").mkdir()
    (sweep.folder / "learning_rate=0.01" / "params.json").write_text('{"": 1}')
    code, out, err = search(call, sweep)
    assert (code, err) == (1, "")
    assert "learning_rate=0.01/params.json: is there already, with another , batch_size" in out
    assert "1 finished, 1 failed" in out


@pytest.mark.slow
def test_of_equally_good_trials_the_first_by_name_is_the_best_as_it_is_in_the_table(call, sweep):
    sweep.write({"save_summary_steps": [70, 50]}, num_epochs=1)  # of which no result depends
    code, out, err = search(call, sweep)
    assert (code, err) == (0, "")
    assert re.search(rf"Best accuracy on val: [\d.]+, {re.escape(str(sweep.folder))}.save_summary_steps=50\n", out)
    _, out, _ = call(optional("synthesize_results").main, "--parent_dir", sweep.folder)
    assert "| save_summary_steps=50 *" in out
