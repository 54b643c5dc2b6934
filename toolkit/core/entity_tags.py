"""Entities in the tags of a sentence, such as B-PER I-PER O."""


def entities(tags):
    """Return the entities that the tags of a sentence mark, a dict from (first token, last token) to type.

    Reads IOB1, IOB2 and IOBES (B-PER, I-PER, ...) by the rules of CoNLL's conlleval; a change of type starts a new
    entity. If the tags have another form, each tag except "O" is an entity of one token.
    """
    found, start, before = {}, None, ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        letter, dash, kind = tag.partition("-")
        letter, kind = (letter, kind) if dash and letter in "BIES" else ("O", "") if tag == "O" else ("S", tag)
        if start is not None and (letter in "OBS" or before[0] in "ES" or kind != before[1]):
            found[start, place - 1] = before[1]
            start = None
        start = place if start is None and letter != "O" else start
        before = letter, kind
    return found
