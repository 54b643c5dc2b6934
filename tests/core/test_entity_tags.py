"""Tests of the entities that tags mark."""

from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from toolkit.core.entity_tags import entities

tags = [*(f"{letter}-{kind}" for letter in "BIES" for kind in ("PER", "LOC")), "O"]


@given(st.lists(st.sampled_from(tags), max_size=12))
def test_entities_agree_with_seqeval(tags):
    assert sorted((kind, *span) for span, kind in entities(tags).items()) == sorted(get_entities(tags))
