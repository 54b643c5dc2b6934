"""The mistakes of a tagger, as a page: sentences with the entities that are missed, spurious or of another type."""

from html import escape

import numpy as np

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
KINDS = {"missed": "missed", "spurious": "spurious", "confused": "with another type or other bounds"}


def mistakes_page(report, title):
    """The sentences of a tagging Report with wrong entities, the surest wrong tag first, as the text of an HTML file.

    None where all entities are right, or where the words are not known.
    """
    if not all(isinstance(word, str) for word in report.columns["item"]):
        return None
    found, totals = [], dict.fromkeys(KINDS, 0)
    wrong = np.where(report.predictions != report.labels, report.probabilities, 0)
    for first, end in report.sentences:
        if wrong[first:end].any():
            words, labels, predictions = (report.columns[n][first:end] for n in ("item", "label", "prediction"))
            mistakes = compare(words, entities(labels), entities(predictions))
            for kind, *_ in mistakes:
                totals[kind] += 1
            found += [(wrong[first:end].max(), marked(words, mistakes))] if mistakes else []
    if not found:
        return None
    found.sort(key=lambda pair: -pair[0])
    legend = ", ".join(f'<mark class="{k}">{totals[k]:,} {what}</mark>' for k, what in KINDS.items())
    legend += f" in {len(found):,} of {len(report.sentences):,} sentences"
    legend += f"; the {MOST_SENTENCES} with the surest mistakes" if len(found) > MOST_SENTENCES else ""
    sentences = "\n".join(f"<li>{sentence}" for _, sentence in found[:MOST_SENTENCES])
    return PAGE.format(title=escape(title), legend=legend, sentences=sentences)


def entities(tags):
    """The entities that a sentence's tags mark, a dict from (first token, last token) to type.

    Of IOB1, IOB2 and IOBES (B-PER, I-PER, ...), by the rules of CoNLL's conlleval; another type begins another entity.
    Where tags are of another form, each but "O" is an entity of one token.
    """
    found, begin, before = {}, None, ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        letter, dash, kind = tag.partition("-")
        letter, kind = (letter, kind) if dash and letter in "BIES" else ("O", "") if tag == "O" else ("S", tag)
        if begin is not None and (letter in "OBS" or before[0] in "ES" or kind != before[1]):
            found[begin, place - 1] = before[1]
            begin = None
        begin = place if begin is None and letter != "O" else begin
        before = letter, kind
    return found


def compare(words, actual, predicted):
    """The mistakes in a sentence, in order: a list of (kind, first token, last token, what is said of it).

    Args:
        words: the sentence's, a list of str.
        actual, predicted: what `entities` gave for the labels and for the predictions.
    """
    groups = []  # (first, last, spans): wrong spans that overlap are one mistake
    for first, last in sorted(s for s in actual.keys() | predicted.keys() if actual.get(s) != predicted.get(s)):
        if groups and first <= groups[-1][1]:
            begin, end, spans = groups.pop()
            groups.append((begin, max(end, last), [*spans, (first, last)]))
        else:
            groups.append((first, last, [(first, last)]))
    mistakes = []
    for first, last, spans in groups:
        said, true = in_words(predicted, spans, words), in_words(actual, spans, words)
        if said and true:
            mistakes.append(("confused", first, last, f"{said}, is {true}"))
        else:
            kind = "missed" if true else "spurious"
            mistakes.append((kind, first, last, f"{kind} {(actual | predicted)[first, last]}"))
    return mistakes


def in_words(found, spans, words):
    """Those of the entities in `found` that are at `spans`: `PER “Anna Smith” and LOC “Rome”`."""
    return " and ".join(f"{found[a, b]} “{' '.join(words[a : b + 1])}”" for a, b in spans if (a, b) in found)


def marked(words, mistakes):
    """A sentence as HTML, its mistakes, as `compare` gave them, marked."""
    parts, done = [], 0
    for kind, first, last, text in mistakes:
        parts += map(escape, words[done:first])
        wrong = escape(" ".join(words[first : last + 1]))
        parts.append(f'<mark class="{kind}">{wrong} <small>{escape(text)}</small></mark>')
        done = last + 1
    return " ".join([*parts, *map(escape, words[done:])])
