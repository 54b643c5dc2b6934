"""Entities in the tags of a sentence, such as B-PER I-PER O."""

import re

from utils import UserError

SCHEMES = {"BIES": "IOB1, IOB2, IOBES", "BILU": "BILOU", "BIMES": "BMES", "BMEW": "BMEWO"}  # by their letters
AS_IOBES = str.maketrans("LUMW", "ESIS")
OUTSIDE = ("O", "o")
LETTER = re.compile(r"([A-Za-z])(?:[-_:|/](.*))?", re.DOTALL)  # B-PER, or B alone
OTHER_NOTATION = re.compile(r"[()<>*\[\]]|^[-_]$|[-_:|/][BIESLUMW]$")  # (PER*, <PER>, PER-B


def split_tags(tags):
    """Return a pair (letter, type) for each of some tags, a list: B-PER is ("B", "PER"), and O is ("O", "").

    The letters are those of IOBES, whichever of the SCHEMES the tags have: U-PER is ("S", "PER"). A type without a
    letter (PER) gets the letter I, so that neighbours of one type are one entity, and a letter alone the type "_".

    Raises:
        UserError: the tags follow no known scheme.
    """
    matches = {tag: LETTER.fullmatch(tag) for tag in tags if tag not in OUTSIDE}
    letters = {match[1].upper() for match in matches.values() if match}
    without = [tag for tag, match in matches.items() if not match]
    odd = [tag for tag in without if letters or OTHER_NOTATION.search(tag)]
    if odd or not any(letters <= set(scheme) for scheme in SCHEMES):
        found = ", ".join(map(repr, odd[:1] + sorted(matches.keys() - odd)[:4]))
        known = f"{', '.join(SCHEMES.values())}, or types without letters"
        raise UserError(f"the tags {found} follow no known scheme; rewrite them in one of {known}")
    pairs = {tag: (m[1].upper().translate(AS_IOBES), m[2] or "_") if m else ("I", tag) for tag, m in matches.items()}
    return [pairs.get(tag, ("O", "")) for tag in tags]


def entities(tags):
    """Return the entities that the tags of a sentence mark, a dict from (first token, last token) to type.

    Reads the schemes of `split_tags` by the rules of CoNLL's conlleval; a change of type starts a new entity.

    Raises:
        UserError: the tags follow no known scheme.
    """
    found, start, before = {}, None, ("O", "")
    for place, (letter, kind) in enumerate([*split_tags(tags), ("O", "")]):
        if start is not None and (letter in "OBS" or before[0] in "ES" or kind != before[1]):
            found[start, place - 1] = before[1]
            start = None
        start = place if start is None and letter != "O" else start
        before = letter, kind
    return found
