"""The mistakes of a tagger as a page: sentences in which wrong entities are marked."""

from collections import Counter
from html import escape
from itertools import groupby

from toolkit.core.entity_tags import entities, split_tags

MOST_SENTENCES = 500
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/2 system-ui; max-width: 60em; margin: 1em auto; padding: 0 1em; overflow-wrap: anywhere }}
mark {{ color: inherit; padding: .15em .3em; border-radius: .3em; border-bottom: 3px solid }}
.missed {{ background: #f6d55c55; border-color: #c99700 }}
.spurious {{ background: #ed553b44; border-color: #ed553b }}
.confused {{ background: #5b8ff955; border-color: #3366dd }}
</style>
<h1>{title}</h1>
<p>{legend}</p>
<ol>
{sentences}
</ol>
</html>
"""
KINDS = {"missed": "missed", "spurious": "spurious", "confused": "with a wrong type or wrong boundaries"}


def mistakes_page(predictions, title):
    """Return an HTML page of the sentences with wrong entities, the most confident mistake first.

    Return None if all entities are right or the words are not known. `predictions` are the Predictions of a tagger.

    Raises:
        UserError: the tags follow no known scheme.
    """
    split_tags(predictions.class_names)
    found, totals, count = [], Counter(), 0
    for _, group in groupby(predictions.rows, key=lambda row: row["sentence"]):
        tokens, count = list(group), count + 1
        words, labels, predictions = ([row[name] for row in tokens] for name in ("item", "label", "prediction"))
        if not isinstance(words[0], str):
            return None
        mistakes = compare(words, entities(labels), entities(predictions))
        if mistakes:
            confidence = max(row["probability"] for row in tokens if row["label"] != row["prediction"])
            found.append((confidence, marked(words, mistakes)))
            totals.update(kind for kind, *_ in mistakes)
    if not found:
        return None
    found.sort(key=lambda pair: -pair[0])
    legend = ", ".join(f'<mark class="{kind}">{totals[kind]:,} {meaning}</mark>' for kind, meaning in KINDS.items())
    legend += f" in {len(found):,} of {count:,} sentences"
    legend += f"; the {MOST_SENTENCES} with the most confident mistakes" if len(found) > MOST_SENTENCES else ""
    sentences = "\n".join(f"<li>{sentence}" for _, sentence in found[:MOST_SENTENCES])
    return PAGE.format(title=escape(title), legend=legend, sentences=sentences)


def compare(words, actual, predicted):
    """Return the mistakes in a sentence, in order, a list of (kind, first token, last token, explanation).

    `actual` and `predicted` are what `entities` returns for the labels and for the predictions.
    """
    groups = []  # lists of wrong spans (first, last); those that overlap are one mistake
    for span in sorted(s for s in actual.keys() | predicted.keys() if actual.get(s) != predicted.get(s)):
        if groups and span[0] <= max(last for _, last in groups[-1]):
            groups[-1].append(span)
        else:
            groups.append([span])
    mistakes = []
    for spans in groups:
        first, last = spans[0][0], max(last for _, last in spans)
        said, true = (
            " and ".join(f"{found[a, b]} “{' '.join(words[a : b + 1])}”" for a, b in spans if (a, b) in found)
            for found in (predicted, actual)
        )
        kind = "confused" if said and true else "missed" if true else "spurious"
        text = f"predicted {said}, label {true}" if said and true else f"{kind} {(actual | predicted)[first, last]}"
        mistakes.append((kind, first, last, text))
    return mistakes


def marked(words, mistakes):
    """Return a sentence as HTML in which the mistakes that `compare` returned are marked."""
    parts, done = [], 0
    for kind, first, last, text in mistakes:
        wrong = escape(" ".join(words[first : last + 1]))
        parts += [*map(escape, words[done:first]), f'<mark class="{kind}">{wrong} <small>{escape(text)}</small></mark>']
        done = last + 1
    return " ".join([*parts, *map(escape, words[done:])])
