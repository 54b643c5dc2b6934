"""The mistakes of a tagger as a page: sentences in which wrong entities are marked."""

from html import escape
from itertools import groupby

from toolkit.core.entity_tags import entities

MOST_SENTENCES = 500
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/2 system-ui, sans-serif; max-width: 60em; margin: 1em auto; padding: 0 1em }}
li {{ overflow-wrap: anywhere }}
mark {{ color: inherit; padding: .15em .3em; border-radius: .3em; border-bottom: 3px solid }}
mark small {{ opacity: .8 }}
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


def mistakes_page(columns, title):
    """Return an HTML page of the sentences with wrong entities, the most confident mistake first.

    Args:
        columns: the columns of a tagger's Predictions.
        title: str.

    Returns:
        str, or None if all entities are right or the words are not known.
    """
    found, totals, count = [], dict.fromkeys(KINDS, 0), 0
    tokens = zip(*columns.values(), strict=True)  # sentence, word, label, prediction, probability
    for _, sentence in groupby(tokens, key=lambda token: token[0]):
        _, words, labels, predictions, probabilities = zip(*sentence, strict=True)
        if not isinstance(words[0], str):
            return None
        mistakes, count = compare(words, entities(labels), entities(predictions)), count + 1
        for kind, *_ in mistakes:
            totals[kind] += 1
        if mistakes:
            wrong = [p for p, *tags in zip(probabilities, labels, predictions, strict=True) if tags[0] != tags[1]]
            found.append((max(wrong), marked(words, mistakes)))
    if not found:
        return None
    found.sort(key=lambda pair: -pair[0])
    legend = ", ".join(f'<mark class="{k}">{totals[k]:,} {meaning}</mark>' for k, meaning in KINDS.items())
    legend += f" in {len(found):,} of {count:,} sentences"
    legend += f"; the {MOST_SENTENCES} with the most confident mistakes" if len(found) > MOST_SENTENCES else ""
    sentences = "\n".join(f"<li>{sentence}" for _, sentence in found[:MOST_SENTENCES])
    return PAGE.format(title=escape(title), legend=legend, sentences=sentences)


def compare(words, actual, predicted):
    """Return the mistakes in a sentence, in order, a list of (kind, first token, last token, explanation).

    Args:
        words: the words of the sentence.
        actual, predicted: what `entities` returns for the labels and for the predictions.
    """
    groups = []  # lists of wrong spans (first, last); wrong spans that overlap are one mistake
    for span in sorted(s for s in actual.keys() | predicted.keys() if actual.get(s) != predicted.get(s)):
        if groups and span[0] <= max(last for _, last in groups[-1]):
            groups[-1].append(span)
        else:
            groups.append([span])
    mistakes = []
    for spans in groups:
        first, last = spans[0][0], max(last for _, last in spans)
        found, true = in_words(predicted, spans, words), in_words(actual, spans, words)
        kind = "confused" if found and true else "missed" if true else "spurious"
        text = f"predicted {found}, label {true}" if found and true else f"{kind} {(actual | predicted)[first, last]}"
        mistakes.append((kind, first, last, text))
    return mistakes


def in_words(found, spans, words):
    """Return the entities of `found` that are at `spans` as text: `PER “Anna Smith” and LOC “Rome”`."""
    return " and ".join(f"{found[a, b]} “{' '.join(words[a : b + 1])}”" for a, b in spans if (a, b) in found)


def marked(words, mistakes):
    """Return a sentence as HTML, with the mistakes that `compare` returned marked."""
    parts, done = [], 0
    for kind, first, last, text in mistakes:
        parts += map(escape, words[done:first])
        wrong = escape(" ".join(words[first : last + 1]))
        parts.append(f'<mark class="{kind}">{wrong} <small>{escape(text)}</small></mark>')
        done = last + 1
    return " ".join([*parts, *map(escape, words[done:])])
