"""The table of experiments, by real runs and by folders as runs leave them."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT, run_process
from PIL import Image
from processes import wait_for

import evaluate
import synthesize_results
import train
from synthesize_results import main


def leave(folder, params, accuracy=None, how="finished", best=("accuracy", "max"), **session):
    """Make the folder of an experiment as a run leaves it."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params))
    run = {"params": {"dropout_rate": 0.5, "seed": 230} | params, "sessions": [{"started": "t", how: "t"} | session]}
    if accuracy is not None:
        run |= {"epochs": 2, "best": {"epoch": 2, "monitor": best[0], "value": accuracy, "mode": best[1]}}
        metrics = {"loss": 1 - accuracy, "accuracy": accuracy}
        (folder / "metrics_val_best_weights.json").write_text(json.dumps(metrics))
        (folder / "history.csv").write_text(f"epoch,val_loss,val_accuracy\n1,0.9,0.1\n2,{1 - accuracy},{accuracy}\n")
    (folder / "run.json").write_text(json.dumps(run))


def size_of(picture):
    with Image.open(picture) as image:
        image.load()
        return image.size


@pytest.fixture
def parent(tmp_path):
    return tmp_path / "sweep"


@pytest.fixture
def table(call, parent):
    """Run the script on the parent without pictures: gives (rows of results.csv, what was printed)."""

    def table(*arguments):
        code, out, err = call(main, "--parent_dir", parent, "--no_plots", *arguments)
        assert (code, err) == (0, "")
        with open(parent / "results.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file)), out

    return table


def test_real_runs_from_training_to_the_table(call, experiment, parent):
    for learning_rate in ("0.001", "0.02"):
        arguments = ["--model_dir", parent / f"learning_rate={learning_rate}", "--from", experiment.folder]
        arguments += ["--data_dir", experiment.data_dir, "--device", "cpu", f"learning_rate={learning_rate}"]
        assert call(train.main, *arguments)[0] == 0
    arguments = ["--model_dir", parent / "learning_rate=0.02", "--data_dir", experiment.data_dir, "--device", "cpu"]
    assert call(evaluate.main, *arguments)[0] == 0
    code, out, err = call(main, "--parent_dir", parent)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    headers = ["name", "status", "epochs", "learning_rate", "loss", "accuracy", "macro_f1"]
    headers += ["test_loss", "test_accuracy", "test_macro_f1"]
    headers += ["test_looks"] * (ROOT / "toolkit" / "evaluation_report").exists()  # which counts them
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == headers
    assert lines[2].startswith("| learning_rate=0.02 *")
    assert lines[-1].startswith("Written: ") and "results.png" in lines[-1]
    best = json.loads((parent / "learning_rate=0.02" / "metrics_val_best_weights.json").read_text())
    assert f" {best['accuracy']:.4f} " in lines[2]
    with open(parent / "results.csv", newline="", encoding="utf-8") as file:
        assert float(next(csv.DictReader(file))["accuracy"]) == best["accuracy"]
    assert size_of(parent / "results.png")[0] > 1000
    assert lines[2] in (parent / "results.md").read_text(encoding="utf-8")


def test_nested_experiments_and_only_what_varies(table, parent):
    leave(parent / "a", {"$schema": "x", "learning_rate": 0.1, "batch_size": 32}, 0.8)
    leave(parent / "deep" / "er" / "b", {"$schema": "y", "learning_rate": 0.2, "batch_size": 32}, 0.9)
    leave(parent / "a" / "replaced-1", {"learning_rate": 7}, 0.99)
    leave(parent / ".sweep" / "x", {"learning_rate": 7}, 0.99)
    rows, _ = table()
    assert [row["name"] for row in rows] == ["deep/er/b", "a"]
    assert list(rows[0]) == ["name", "best", "status", "epochs", "learning_rate", "loss", "accuracy"]


def test_a_key_that_one_file_lacks_is_the_default_it_ran_with(table, parent):
    leave(parent / "a", {"dropout_rate": 0.1}, 0.8)
    leave(parent / "b", {}, 0.9)
    rows, _ = table()
    assert [row["dropout_rate"] for row in rows] == ["0.5", "0.1"]


def test_the_statuses_are_told_apart_and_only_a_finished_one_is_the_best(table, parent):
    leave(parent / "finished", {"x": 1}, 0.8)
    leave(parent / "stopped", {"x": 2}, 0.9, how="stopped")
    leave(parent / "pruned", {"x": 3}, 0.2, how="pruned", reason="below the median")
    leave(parent / "killed", {"x": 4}, 0.3, how="first_epoch")
    leave(parent / "running", {"x": 5}, 0.95, how="first_epoch")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": "t"}
    (parent / "running" / ".lock").write_text(json.dumps(owner))
    (parent / "running" / "history.csv").write_text("epoch,val_loss\n1,0.2\n2,0.1\n3,0.1\n")  # run.json has 2
    leave(parent / "failed", {"x": 6}, how="failed", error="Traceback\n  ...\nRuntimeError: out of memory")
    rows, out = table()
    assert {row["name"]: row["status"] for row in rows} == {
        name: "stopped" if name == "killed" else name
        for name in ("running", "stopped", "finished", "killed", "pruned", "failed")
    }
    assert (rows[0]["name"], rows[0]["epochs"], rows[-1]["name"]) == ("running", "3", "failed")
    assert [row["name"] for row in rows if row["best"]] == ["finished"]
    assert "- failed: RuntimeError: out of memory" in out
    assert "- pruned: below the median" in out


def test_less_is_better_where_the_loss_is_monitored(table, parent):
    leave(parent / "a", {"x": 1}, 0.8, best=("loss", "min"))
    leave(parent / "b", {"x": 2}, 0.9, best=("loss", "min"))
    assert [row["name"] for row in table()[0]] == ["b", "a"]
    assert [row["name"] for row in table("--metric", "loss", "--mode", "max")[0]] == ["a", "b"]


def test_cs230s_experiments_have_neither_run_nor_history(table, parent):
    for name, accuracy in (("a", 0.5), ("b", 0.7)):
        leave(parent / name, {"learning_rate": accuracy}, accuracy)
        (parent / name / "run.json").unlink()
        (parent / name / "history.csv").unlink()
    rows, _ = table()
    assert [(row["name"], row["status"]) for row in rows] == [("b", "finished"), ("a", "finished")]


def test_seeds_are_merged_into_their_mean(table, parent):
    for seed, accuracy in enumerate([0.80, 0.84, 0.82]):
        leave(parent / f"x=1,seed={seed}", {"x": 1, "seed": seed}, accuracy)
    leave(parent / "x=2", {"x": 2, "seed": 0}, 0.81)
    rows, out = table()
    assert [(row["name"], row["n"], row["x"]) for row in rows] == [("x=1", "3", "1"), ("x=2", "1", "2")]
    assert float(rows[0]["accuracy"]) == pytest.approx(0.82)
    assert float(rows[0]["accuracy_ci95"]) == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)
    assert "seed" not in rows[0]
    assert "0.8200 ± 0.0497" in out
    raw, _ = table("--no_fold")
    assert [row["seed"] for row in raw] == ["1", "2", "0", "0"]


def test_an_unfinished_replicate_is_left_out_of_the_mean_and_the_row_is_not_the_best(table, parent):
    for seed in (1, 2):
        leave(parent / f"x=1,seed={seed}", {"x": 1, "seed": seed}, 0.9)
    leave(parent / "x=1,seed=3", {"x": 1, "seed": 3}, 0.1, how="failed", error="no memory")
    leave(parent / "x=2", {"x": 2, "seed": 1}, 0.5)
    rows, out = table()
    assert [row["status"] for row in rows] == ["failed", "finished"]
    assert float(rows[0]["accuracy"]) == pytest.approx(0.9)
    assert (rows[0]["n"], rows[0]["replicates"], rows[1]["best"]) == ("2", "3", "*")
    assert " 2/3 " in out and "- x=1,seed=3: no memory" in out


def test_the_same_seed_twice_is_no_replicate(table, parent):
    for code in ("old_code", "new_code"):
        for seed in (1, 2):
            leave(parent / code / f"seed={seed}", {"x": 1, "seed": seed}, 0.8)
    leave(parent / "copy_1", {"x": 2, "seed": 1}, 0.8)
    leave(parent / "copy_2", {"x": 2, "seed": 1}, 0.8)
    rows, _ = table()
    assert {row["name"]: row["n"] for row in rows} == {"old_code": "2", "new_code": "2", "copy_1": "1", "copy_2": "1"}


def test_folds_are_merged_with_the_wider_interval(table, parent):
    for fold, accuracy in enumerate([0.80, 0.84, 0.82]):
        leave(parent / f"x=1,fold={fold}", {"x": 1, "num_folds": 3, "fold": fold, "seed": 1}, accuracy)
    rows, _ = table()
    assert rows[0]["name"] == "x=1"
    assert float(rows[0]["accuracy_ci95"]) == pytest.approx(4.3027 * 0.02 * (1 / 3 + 1 / 2) ** 0.5, rel=1e-4)
    assert "num_folds" not in rows[0]


def test_seeds_of_a_cross_validation_are_no_further_samples_of_the_data(table, parent):
    for seed in (1, 2):
        for fold, accuracy in enumerate([0.80, 0.84, 0.82]):
            params = {"x": 1, "num_folds": 3, "fold": fold, "seed": seed}
            leave(parent / f"x=1,seed={seed},fold={fold}", params, accuracy + 0.02 * seed)
    rows, _ = table()
    assert (rows[0]["name"], rows[0]["n"], float(rows[0]["accuracy"])) == ("x=1", "6", pytest.approx(0.85))
    assert float(rows[0]["accuracy_ci95"]) == pytest.approx(4.3027 * 0.02 * (1 / 3 + 1 / 2) ** 0.5, rel=1e-4)


def test_only_results_on_the_same_split_are_paired(table, parent):
    """Not those of 3 folds with those of 5, nor an ordinary run, whose `fold` is 0 by default, with the first fold."""
    leave(parent / "x=1", {"x": 1, "num_folds": 0, "fold": 0, "seed": 230}, 0.9)
    for num_folds in (3, 5):
        for fold in range(num_folds):
            params = {"x": 1, "num_folds": num_folds, "fold": fold, "seed": 230}
            leave(parent / f"{num_folds}/x=1,fold={fold}", params, 0.8 + 0.01 * fold * num_folds)
    rows, out = table("--baseline", "5/x=1")
    assert {row["name"]: (row["num_folds"], row["difference"], row["p_value"]) for row in rows} == {
        "x=1": ("0", "", ""),
        "3/x=1": ("3", "", ""),
        "5/x=1": ("5", "", ""),
    }
    assert "no p-value, because fewer than two seeds or folds finished both there and in 5/x=1" in out


def test_a_run_that_ended_in_nan_changes_no_others_p_value(table, parent):
    for seed, noise in enumerate([0.00, 0.02, 0.05]):
        leave(parent / f"base,seed={seed}", {"x": 0, "seed": seed}, 0.80 + noise)
        leave(parent / f"better,seed={seed}", {"x": 1, "seed": seed}, 0.84 + noise + 0.001 * (seed % 2))
        leave(parent / f"a,seed={seed}", {"x": 2, "seed": seed}, 0.84 + noise if seed else float("nan"))
    rows, _ = table("--baseline", "base")
    assert float(next(row["p_value"] for row in rows if row["name"] == "better")) < 0.001


def test_what_differs_from_the_baseline_beyond_chance(table, parent):
    for seed, noise in enumerate([0.00, 0.02, 0.05, 0.03]):  # the same for all: what pairing takes out
        leave(parent / f"base,seed={seed}", {"x": 0, "seed": seed}, 0.80 + noise)
        leave(parent / f"better,seed={seed}", {"x": 1, "seed": seed}, 0.84 + noise + 0.001 * (seed % 2))
        leave(parent / f"alike,seed={seed}", {"x": 2, "seed": seed}, 0.80 + noise + 0.01 * (-1) ** seed)
    leave(parent / "single", {"x": 3, "seed": 0}, 0.9)
    rows, out = table("--baseline", "base")
    by_name = {row["name"]: row for row in rows}
    assert float(by_name["better"]["difference"]) == pytest.approx(0.0405)
    assert float(by_name["better"]["p_value"]) < 0.001
    assert float(by_name["alike"]["p_value"]) == 1.0
    assert (by_name["base"]["p_value"], by_name["single"]["p_value"]) == ("", "")
    assert "no p-value, because fewer than two seeds or folds finished both there and in base" in out
    assert "all differences are equal: single\n" in out
    assert "Holm-adjusted (rows compared: 2)" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--parent_dir", "nowhere"], "--parent_dir nowhere: no such folder; give the folder that contains"),
        (["--metric", "acuracy"], "no experiment has this metric (did you mean accuracy?); known: loss, accuracy"),
        (["--metric", "loss", "--baseline", "b"], "--baseline b: no such row; did you mean base?"),
        (["--watch", "0"], "--watch 0: give a number of seconds above 0"),
    ],
)
def test_a_mistake_is_one_line_with_code_2(call, parent, arguments, message):
    leave(parent / "base", {"x": 1}, 0.8)
    code, out, err = call(main, "--parent_dir", parent, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_without_a_metric_nothing_can_be_compared_with_a_baseline(call, parent):
    leave(parent / "base", {"x": 1}, None)
    code, _, err = call(main, "--parent_dir", parent, "--baseline", "base")
    assert (code, err.count("\n")) == (2, 1)
    assert "--baseline base: no experiment has a metric to compare yet" in err


def test_a_misspelled_folder_is_suggested(call, parent):
    leave(parent / "base", {"x": 1}, 0.8)
    code, _, err = call(main, "--parent_dir", parent.with_name("sweeep"))
    assert (code, err.count("\n")) == (2, 1)
    assert f"no such folder; did you mean {parent}?" in err


def test_nothing_trained_yet_is_said(call, parent):
    (parent / "a").mkdir(parents=True)
    (parent / "a" / "params.json").write_text("{}")
    code, out, err = call(main, "--parent_dir", parent)
    assert code == 2
    assert f"{parent / 'a'}: not trained yet" in out
    assert "no trained experiment" in err


BROKEN = {
    "empty": {},
    "untrained": {"params.json": b"{}"},
    "junk": {"params.json": bytes(range(256))},
    "cut": {"params.json": b'{"x": 1}', "metrics_val_best_weights.json": b'{"accuracy":'},
    "list": {"params.json": b"[]"},
    "nested": {"params.json": b"[" * 100_000},
    "nothing": {"params.json": b""},
    "folder": {"params.json": None},
}


def test_broken_folders_are_listed_under_the_table(table, parent):
    leave(parent / "good", {"x": 1}, 0.8)
    for name, files in BROKEN.items():
        (parent / name).mkdir()
        for file, content in files.items():
            (parent / name / file).mkdir() if content is None else (parent / name / file).write_bytes(content)
    rows, out = table()
    assert [row["name"] for row in rows] == ["good"]
    left_out = out[out.index("Left out:") :]
    assert all(f"- {parent / name}" in left_out for name in BROKEN)


def test_odd_results_are_shown_as_they_are(table, parent):
    leave(parent / "good", {"x": 1}, 0.8)
    leave(parent / "nan", {"x": 2}, 0.8)
    (parent / "nan" / "metrics_val_best_weights.json").write_text('{"accuracy": NaN, "loss": "x", "f1": [1], "y": 3}')
    leave(parent / "run", {"x": 3}, 0.7)
    (parent / "run" / "run.json").write_bytes(b"\xff")
    leave(parent / "sessions", {"x": 4}, 0.6)
    (parent / "sessions" / "run.json").write_text('{"sessions": [3], "best": [], "params": 1, "epochs": "x"}')
    rows, out = table()
    assert [row["name"] for row in rows] == ["good", "run", "sessions", "nan"]
    assert 'loss is "x", not a number' in out and "f1 is [1], not a number" in out and "accuracy is nan" in out
    assert "run.json: not valid JSON" in out


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows not every user may make links")
def test_links_are_followed_but_not_in_circles(table, parent, tmp_path):
    leave(parent / "a", {"x": 1}, 0.8)
    leave(tmp_path / "other_disk" / "b", {"x": 2}, 0.9)
    (parent / "a" / "up").symlink_to("..")
    (parent / "a" / "self").symlink_to("self")
    (parent / "root").symlink_to("/")
    (parent / "latest").symlink_to("a")
    (parent / "elsewhere").symlink_to(tmp_path / "other_disk")
    assert [row["name"] for row in table()[0]] == ["elsewhere/b", "a"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_that_would_break_a_table(table, parent):
    leave(parent / "a|b & c_1 % $\n\x1b[31m", {"x": "p|q"}, 0.8)
    leave(parent / "other", {"x": "é"}, 0.7)
    rows, out = table()
    assert rows[0]["name"] == "a|b & c_1 % $\n\x1b[31m"
    assert "\x1b" not in out and r"a\|b & c_1 % $\n\x1b[31m *" in out
    latex = (parent / "results.tex").read_text(encoding="utf-8")
    assert r"a|b \& c\_1 \% \$" in latex
    assert latex.startswith(r"\begin{tabular}") and r"\toprule" in latex


def test_a_hyperparameter_called_as_a_metric_keeps_its_column(table, parent):
    leave(parent / "a", {"loss": "hinge"}, 0.8)
    leave(parent / "b", {"loss": "cross_entropy"}, 0.9)
    rows, _ = table()
    assert [row["params.loss"] for row in rows] == ["cross_entropy", "hinge"]


def test_a_long_table_is_cut_on_the_terminal_and_whole_in_the_files(table, parent):
    for i in range(60):
        leave(parent / f"x={i}", {"x": i}, i / 100)
    for i in range(30):
        leave(parent / f"y={i}", {"x": 1000 + i}, how="failed", error="no memory")
    rows, out = table()
    assert len(rows) == 90
    assert out.count("\n| ") == 50 and "... and 40 more rows" in out
    assert out.count("no memory") == 20 and "... and 10 more" in out
    assert (parent / "results.md").read_text(encoding="utf-8").count("no memory") == 30


@pytest.mark.parametrize("count, hyperparameters", [(1, 1), (3, 1), (40, 4), (30, 8), (12, 0)])
def test_pictures_of_any_number_of_rows(call, parent, count, hyperparameters):
    kinds = [
        lambda i: 10.0 ** (i % 7 - 6),
        lambda i: ["a" * 60, "$b_1$"][i % 2],
        lambda i: [i % 3, 1],
        lambda i: i / 7 if i % 3 else None,
    ]
    for i in range(count):
        params = {f"a_long_name_of_a_hyperparameter_{h}": kinds[h % 4](i + h) for h in range(hyperparameters)}
        leave(
            parent / f"{i}{'long' * 20}",
            params | {"seed": 1},
            0.5 + i / 100,
            how="pruned" if i % 5 == 4 else "finished",
        )
    code, _, err = call(main, "--parent_dir", parent, "--no_fold")
    assert (code, err) == (0, "")
    assert size_of(parent / "results.png")[1] > 400


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal that Windows does not have")
def test_watching_shows_what_changes_until_ctrl_c(parent):
    parent.mkdir()  # the sweep has only just begun
    command = [sys.executable, "synthesize_results.py", "--parent_dir", str(parent), "--watch", "0.1", "--no_plots"]
    command += ["--metric", "accuracy"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert "no experiment has this metric; known: none yet (so far)" in process.stdout.readline()
            leave(parent / "a", {"x": 1}, 0.8)
            wait_for(process, lambda: (parent / "results.tex").exists())
            leave(parent / "new" / "b", {"x": 2}, 0.9)
            wait_for(process, lambda: "new/b" in (parent / "results.tex").read_text(encoding="utf-8"))
            shutil.rmtree(parent / "new")
            wait_for(process, lambda: "new/b" not in (parent / "results.tex").read_text(encoding="utf-8"))
            process.send_signal(signal.SIGINT)
            out = process.communicate()[0]
        finally:
            process.kill()  # if an assertion failed; else it has ended
    assert process.returncode == 0
    assert out.count("Written: ") >= 2 and "\033[" not in out and "Traceback" not in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell with pipes and head")
def test_a_reader_that_has_seen_enough_ends_it_quietly(parent):
    for i in range(40):
        leave(parent / f"x={i}", {"x": i}, i / 100)
    command = f"{sys.executable} synthesize_results.py --parent_dir {parent} --no_plots | head -n 1"
    done = run_process("bash", "-c", command)
    assert done.stderr == "" and done.stdout.count("\n") == 1


def test_it_starts_without_torch_and_without_what_it_does_not_need(parent):
    leave(parent / "a", {"x": 1}, 0.8)
    code = (
        "import sys, synthesize_results\n"
        f"synthesize_results.main(['--parent_dir', {str(parent)!r}, '--no_plots'])\n"
        "print(sorted({'torch', 'matplotlib', 'scipy'} & sys.modules.keys()))"
    )
    done = run_process(sys.executable, "-c", code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_commands_of_its_help_are_understood():
    for line in synthesize_results.__doc__.splitlines():
        if line.startswith("python "):
            synthesize_results.parse_arguments(line.split("#")[0].split()[2:])


def test_a_detail_of_a_metric_is_in_the_csv_alone(parent, table):
    leave(parent / "one", {"learning_rate": 0.1}, 0.9)
    metrics = {"loss": 0.1, "accuracy": 0.9, "f1/person": 0.7}
    (parent / "one" / "metrics_val_best_weights.json").write_text(json.dumps(metrics))
    rows, out = table()
    assert rows[0]["f1/person"] == "0.7"
    assert "accuracy" in out and "person" not in out
    assert "person" in table("--metric", "f1/person", "--mode", "max")[1]


def test_values_that_python_takes_for_equal_are_rows_of_their_own_and_one_number_is_one_row(table, parent):
    for seed, value in enumerate([True, 1, 1.0, "1", "true", False, 0]):
        leave(parent / f"knob={seed}", {"knob": value, "seed": seed}, 0.5 + seed / 100)
    rows, out = table()
    assert {row["knob"]: row["n"] for row in rows} == {
        **{"true": "1", "1": "2", '"1"': "1", '"true"': "1"},
        **{"false": "1", "0": "1"},
    }
    assert '"true"' in out


@pytest.mark.parametrize("wrong", ["NaN", "null", "Infinity"])  # null as it is written now, NaN as it was before
def test_a_result_that_is_no_number_comes_last_and_is_never_the_best(table, parent, wrong):
    for seed in (1, 2):
        leave(parent / f"x=1,seed={seed}", {"x": 1, "seed": seed}, 0.8)
        leave(parent / f"x=2,seed={seed}", {"x": 2, "seed": seed}, 0.9)
    (parent / "x=2,seed=1" / "metrics_val_best_weights.json").write_text(f'{{"loss": 0.1, "accuracy": {wrong}}}')
    for mode in ("max", "min"):
        rows, out = table("--metric", "accuracy", "--mode", mode, "--html")
        assert [row["name"] for row in rows] == ["x=1", "x=2"]
        assert [row["best"] for row in rows] == ["*", ""]
    shown = "inf" if wrong == "Infinity" else "nan"
    assert rows[1]["accuracy"] in (shown, "")
    assert f"accuracy is {shown}" in out
    lines = (parent / "results.tex").read_text(encoding="utf-8").splitlines()
    assert f" {shown} " in next(line for line in lines if "x=2" in line)
    page = (parent / "results.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert (data["best"], data["rows"][1]["cells"][:2]) == (0, ["x=2", shown])


def test_curves_of_a_metric_whose_name_has_an_odd_line_end_are_drawn(call, parent):
    leave(parent / "a", {"x": 1}, 0.8, best=("f1\u2028x", "max"))
    (parent / "a" / "metrics_val_best_weights.json").write_text('{"f1\\u2028x": 0.8}')
    history = "epoch,val_f1\u2028x\n1,0.1\n2,\n3,0.8\n"
    (parent / "a" / "history.csv").write_text(history, encoding="utf-8", newline="")
    assert call(main, "--parent_dir", parent, "--html")[0] == 0
    page = (parent / "results.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["rows"][0]["curves"] == {"epochs": [1, 2, 3], "values": [[0.1, "nan", 0.8], [], [], []]}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names")
def test_folders_whose_names_are_not_utf_8_long_or_differ_in_case_are_rows(call, parent):
    names = [b"\xff\xfe x=1", b"x" * 255, b"X" * 255, "é".encode() * 127]
    for number, name in enumerate(names):
        leave(parent / os.fsdecode(name), {"x": number}, 0.5 + number / 10)
    code, out, err = call(main, "--parent_dir", parent, "--html")
    assert (code, err) == (0, "")
    with open(parent / "results.csv", newline="", encoding="utf-8") as file:
        found = [row["name"] for row in csv.DictReader(file)]
    assert found == ["é" * 127, "X" * 255, "x" * 255, r"\udcff\udcfe x=1"]
    assert r"\udcff\udcfe x=1" in out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_no_cell_of_the_csv_file_is_a_formula_for_a_spreadsheet(call, parent):
    for number, evil in enumerate(["=cmd|' !A0", "+1+1", "@SUM(1)", "-2+3", "\t=1"]):
        leave(parent / evil, {evil: number, "note": evil}, 0.5)
    leave(parent / "good", {"note": -0.5}, 0.9)
    assert call(main, "--parent_dir", parent)[0] == 0
    with open(parent / "results.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert [cell for line in lines for cell in line if cell[:1] in tuple("=+-@\t") and cell != "-0.5"] == []
    assert lines[1][0] == "good" and "'=cmd|' !A0" in [line[0] for line in lines]
