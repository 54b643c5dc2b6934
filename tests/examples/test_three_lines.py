"""CS230's three lines work with an example in a script of one's own."""

from conftest import ROOT, copy_of
from three_lines import three_lines


def test_the_three_lines_of_cs230_work_with_an_example(tmp_path):
    example = copy_of(ROOT / "examples" / "ner", tmp_path / "ner")
    three_lines(tmp_path, example, example / "experiments" / "base_model", example / "data" / "sample")
