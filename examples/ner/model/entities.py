"""Entities: spans of tokens that their tags mark, and how many of them are found, overall and by type."""

import functools

import numpy as np

from toolkit.core.entity_tags import split_tags


def entity_scores(outputs, labels, params):
    """Return precision, recall and F1 of entities; one is found if its type, first token and last token are right.

    This is the default definition of seqeval and of CoNLL's conlleval (Tjong Kim Sang and De Meulder, 2003). It takes
    IOB1, IOB2, IOBES, BILOU, BMEWO, types without letters, and sequences that break their rules: a type that changes
    begins another entity. Tags of another scheme are refused.

    Args:
        outputs: logits, array (tokens, num_tags), of all tokens of a split.
        labels: "tags", int array (tokens,), and "lengths", int array (sentences,), how many of them a sentence has.
        params: `tags`, the names of the tags (a fact of the dataset).

    Returns:
        dict with "precision", "recall", "f1" and, for each type of entity, "precision/<type>" and so on. What would be
        a division by 0 is 0.
    """
    tags = tuple(params.tags)
    _, _, types, _ = rules(tags)
    actual = spans(labels["tags"], labels["lengths"], tags)
    predicted = spans(outputs.argmax(axis=1), labels["lengths"], tags)
    right = np.intersect1d(actual, predicted, assume_unique=True)
    counts = [np.bincount(keys % len(types), minlength=len(types)) for keys in (right, predicted, actual)]
    results = scores(*(of_type.sum() for of_type in counts))
    by_type = scores(*counts)
    for number, name in enumerate(types):
        results |= {f"{score}/{name}": values[number] for score, values in by_type.items()}
    return results


def scores(right, predicted, actual):
    """Return precision, recall and F1, a dict, from counts of entities: numbers, or arrays of one shape."""
    return {
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(actual, 1),
        "f1": 2 * right / np.maximum(predicted + actual, 1),
    }


def spans(sequence, lengths, tags):
    """Return all entities of a split, each as a number that identifies it.

    Args:
        sequence: int array (tokens,), indices into `tags`.
        lengths: int array (sentences,), the tokens of each.
        tags: tuple of the names of the tags.

    Returns:
        int64 array (entities,); the remainder by the number of types is the entity's type.
    """
    ends, begins, types, type_of = rules(tags)
    outside = len(tags)
    after = np.insert(sequence, np.cumsum(lengths), outside)  # (tokens + sentences,), no entity goes on past a sentence
    before = np.append(outside, after[:-1])
    place = np.arange(len(after), dtype=np.int64)
    begin = np.maximum.accumulate(np.where(begins[before, after], place, 0))
    last = np.flatnonzero(ends[before, after]) - 1  # (entities,)
    return (last * len(after) + begin[last]) * len(types) + type_of[after[last]]


@functools.cache
def rules(tags):
    """Return conlleval's rules as tables: where entities end and begin between two tags of neighbouring tokens.

    Args:
        tags: tuple of the names of the tags. Behind them, the tables have an "O" for what is between sentences.

    Returns:
        ends, begins: bool arrays (num_tags + 1, num_tags + 1): one ends, or begins, between a tag (row) and the next.
        types: the names of the types of entities, a sorted list.
        type_of: int array (num_tags + 1,), index into `types` (0 for tags outside entities).
    """
    parts = split_tags([*tags, "O"])  # B-PER: B, PER
    types = sorted({kind for letter, kind in parts if letter != "O"})
    ends, begins = np.zeros((2, len(parts), len(parts)), bool)
    for row, (left, left_type) in enumerate(parts):
        for column, (right, right_type) in enumerate(parts):
            pair, changes = left + right, left_type != right_type
            is_end = left in "ES" or pair in ("BB", "BS", "BO", "IB", "IS", "IO")
            is_begin = right in "BS" or pair in ("EE", "EI", "SE", "SI", "OE", "OI")
            ends[row, column] = is_end or (left != "O" and changes)
            begins[row, column] = is_begin or (right != "O" and changes)
    type_of = np.array([types.index(kind) if letter != "O" else 0 for letter, kind in parts])
    return ends, begins, types, type_of
