"""Tagged text as it is published: CoNLL's columns, Kaggle's ner_dataset.csv, sentences and labels in two files."""

import codecs
import csv
import io
import itertools
import logging
import re
from pathlib import Path

import numpy as np

from toolkit.core.image_dataset import SPLITS
from utils import UserError

SPLIT_NAMES = {"train": "train", "testa": "val", "dev": "val", "val": "val", "test": "test"}  # as a file name has them
SPLIT_NAME = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_NAMES)})", re.IGNORECASE)
FEWEST = 4  # sentences of one file that is split in three
DOCUMENT = "-DOCSTART-"  # a line that separates documents
COMMENT = re.compile(r"#(\s|$|(begin|end) document|[\w.:]+\s*=)")  # a line before a sentence, such as # id 5
STAND_IN = "_"  # for blanks in tokens, and for tokens of nothing else: in a line of text, blanks separate tokens


def read_text(file, encoding="utf-8"):
    """Return the text of a file.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        content = Path(file).read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    if b"\0" in content:
        raise UserError(f"{file}: has bytes of 0, as UTF-16 and files that are no text have; save it as UTF-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line}: not {encoding.upper()}, it has a byte 0x{content[error.start]:02x}; save it as UTF-8"
        ) from None


def lines_of(text):
    """Return the lines of a text, a list. They end with LF, CR LF or CR; other separators may be tokens."""
    return re.split(r"\r*\n|\r", text)


def visible(token):
    """Return a token with `STAND_IN` for each run of blanks, of whatever kind."""
    return re.sub(r"\s+", STAND_IN, token) or STAND_IN


def read_conll(file):
    """Return the sentences of a file in columns without comments: a list of pairs (tokens, tags), two lists of str.

    Raises:
        UserError: a line has only one column, or another number of columns than the lines before.
    """
    # in a line with tabs, only these separate columns, and the token may be a blank
    rows = [
        line.rstrip().split("\t") if "\t" in line else [column for column in line.split(" ") if column]
        for line in lines_of(read_text(file))
    ]
    tagged = [row for row in rows if len(row) > 1 and not row[0].startswith("#")]
    # pairs (number of columns, tag) of the tokens: a line of such a form is the token #, not a comment
    forms = {(len(tagged[0]), row[-1]) for row in tagged}
    sentences, tokens, tags, width, comments = [], [], [], None, 0
    for number, columns in enumerate([*rows, []], 1):
        text = " ".join(columns).strip()
        if not text or text.startswith(DOCUMENT):
            if tokens:
                sentences.append((tokens, tags))
            tokens, tags = [], []
        elif not tokens and COMMENT.match(text) and (len(columns), columns[-1]) not in forms:
            comments += 1
        elif len(columns) == 1:
            raise UserError(f"{file}, line {number}: has one column only, {text!r}; a token and its tag are needed")
        elif len(columns) != (width or len(columns)):
            raise UserError(f"{file}, line {number}: has {len(columns)} columns, the lines before have {width}")
        else:
            width = len(columns)
            tokens.append(visible(columns[0]))
            tags.append(visible(columns[-1]))
    if comments:
        logging.info("%s: %d comment lines, such as those with # id, are left out", file, comments)
    return sentences


def read_csv(file):
    """Return the sentences of Kaggle's `ner_dataset.csv`, as `read_conll` does.

    Only the first row of a sentence has its number; in copies of the file perhaps each row. The original is encoded in
    windows-1252, copies in UTF-8.

    Raises:
        UserError: a column is missing, or a row has no tag.
    """
    try:
        text = read_text(file)
    except UserError:
        text = read_text(file, "windows-1252")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    needed = ("Sentence #", "Word", "Tag")
    if not set(needed) <= set(rows.fieldnames or []):
        raise UserError(f"{file}: should have the columns {', '.join(needed)}, as Kaggle's ner_dataset.csv has")
    sentences, current = [], None
    try:
        for row in rows:
            if not sentences or row["Sentence #"] not in ("", None, current):
                sentences.append(([], []))
                current = row["Sentence #"]
            word, tag = row["Word"] or "", (row["Tag"] or "").strip()
            if not tag or "\n" in word:
                problem = "has no tag, or a quotation mark opens and does not close"
                raise UserError(f"{file}, line {rows.line_num}: {problem}")
            sentences[-1][0].append(visible(word))
            sentences[-1][1].append(visible(tag))
    except csv.Error as error:
        raise UserError(f"{file}, line {rows.line_num}: {error}; does a quotation mark open and not close?") from None
    return sentences


def read_pair(folder):
    """Return the sentences of sentences.txt and labels.txt in a folder, as `read_conll` does.

    Raises:
        UserError: a line of sentences.txt has not as many tokens as the line of labels.txt has tags.
    """
    lines = (lines_of(read_text(folder / name)) for name in ("sentences.txt", "labels.txt"))
    sentences = []
    for number, pair in enumerate(itertools.zip_longest(*lines, fillvalue=""), 1):
        tokens, tags = (line.strip(" ").split(" ") if line.strip(" ") else [] for line in pair)
        if len(tokens) != len(tags) or "" in tags:
            raise UserError(
                f"{folder / 'sentences.txt'}, line {number}: {len(tokens)} tokens, but {len(tags)} tags in labels.txt; "
                f"one blank separates two"
            )
        if tokens and tokens[0] != DOCUMENT:
            sentences.append(([visible(token) for token in tokens], tags))
    return sentences


def read_source(source, seed):
    """Return the sentences of each split, a dict from split to a list of pairs (tokens, tags).

    Args:
        source: path of a folder with a CoNLL file or a folder of text files for each split, or of one file to split.
        seed: seed of the random split of one file.

    Raises:
        UserError: a split is missing, empty, or there twice; a file has another format.
    """
    if source.is_file():
        splits = divide(read_csv(source) if source.suffix.lower() == ".csv" else read_conll(source), source, seed)
    elif source.is_dir():
        found = {}
        for path in sorted(source.iterdir()):
            match = SPLIT_NAME.search(path.name)
            if not match or path.name.startswith(".") or (path.is_dir() and not (path / "sentences.txt").is_file()):
                continue
            split = SPLIT_NAMES[match[1].lower()]
            if split in found:
                raise UserError(f"{source}: {found[split].name} and {path.name} are both for {split}; keep one")
            found[split] = path
        for split in SPLITS:
            if split not in found:
                names = " or ".join(name for name, of in SPLIT_NAMES.items() if of == split)
                raise UserError(f"{source}: nothing in it is called {names}, for the {split} split")
        splits = {split: (read_pair if path.is_dir() else read_conll)(path) for split, path in found.items()}
    else:
        raise UserError(f"{source}: no such file or folder")
    for split in SPLITS:
        if not splits[split]:
            raise UserError(f"{source}: the {split} split has no sentences")
    return {split: splits[split] for split in SPLITS}


def divide(sentences, source, seed):
    """Split sentences 70/15/15 at random; equal ones stay together, so that none in val or test is known from train."""
    same = {}
    for sentence in sentences:
        same.setdefault(tuple(sentence[0]), []).append(sentence)
    groups = list(same.values())
    if len(groups) < FEWEST:
        raise UserError(f"{source}: {len(groups)} different sentences are too few to split; {FEWEST} are needed")
    shuffled = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    bounds = [0, int(0.7 * len(groups)), int(0.85 * len(groups)), len(groups)]
    parts = [shuffled[begin:end] for begin, end in itertools.pairwise(bounds)]
    return {split: list(itertools.chain(*part)) for split, part in zip(SPLITS, parts, strict=True)}
