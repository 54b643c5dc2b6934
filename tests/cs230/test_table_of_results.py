"""CS230's functions for a table of results."""

import json

import pytest
from conftest import optional


def test_aggregate_metrics_and_metrics_to_table(tmp_path):
    for name, metrics in {
        "a": {"loss": 0.2, "accuracy": 0.8},
        "sub/b": {"f1": 0.5},
        "a/replaced-1": {"old": 1},
    }.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics_val_best_weights.json").write_text(json.dumps(metrics))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics_val_best_weights.json").write_text("{")
    synthesize_results, metrics = optional("synthesize_results"), {}
    synthesize_results.aggregate_metrics(str(tmp_path), metrics)
    assert metrics == {
        str(tmp_path / "a"): {"loss": pytest.approx(0.2), "accuracy": 0.8},
        str(tmp_path / "sub" / "b"): {"f1": 0.5},
    }
    lines = synthesize_results.metrics_to_table(metrics).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["", "loss", "accuracy", "f1"]
    assert len(lines) == 4
    assert synthesize_results.metrics_to_table({})
