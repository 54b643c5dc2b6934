"""Build a dataset of tagged sentences: data/<name>/{train,val,test}/{sentences,labels}.txt, words.txt, dataset.json.

    python examples/ner/build_dataset.py path/to/conll2003               # CoNLL files, one for each split
    python examples/ner/build_dataset.py ner_dataset.csv --name kaggle   # Kaggle's, or one CoNLL file: split 70/15/15
    python examples/ner/build_dataset.py path/to/text --min_count 2      # {train,val,test}/{sentences,labels}.txt
    python examples/ner/build_dataset.py --audit examples/ner/data/kaggle    # duplicates, unknown words, rare tags

CoNLL files have one token per line, in any number of columns: the token comes first and its tag last. A blank line ends
a sentence, and comments (# id 5) may stand before one. Then name the dataset in params.json: "dataset": "<name>".
"""

import argparse
import hashlib
import json
import logging
import re
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

from tabulate import tabulate

sys.path.append(str(Path(__file__).resolve().parent / "../.."))  # the repository, for utils and toolkit
import utils
from model import corpora
from model.data_loader import FILES, counts_of, digest, read_index, read_split
from toolkit.core.entity_tags import split_tags
from toolkit.core.image_dataset import FACTS, SPLITS, read_facts
from toolkit.core.script import run_script
from toolkit.core.text import list_some
from toolkit.datasets.dataset_folder import add_build_arguments, already_built, target_folder, write_folder
from toolkit.datasets.findings import BAD, DOUBTFUL, GOOD, Finding, log_findings, write_findings
from utils import UserError

DATA = Path(__file__).resolve().parent / "data"
LONG = 5  # words of a sentence that is unlikely to occur twice by chance
MANY_UNKNOWN, RARE = 0.1, 20  # share of unknown tokens; number of tokens with a tag in train
FIRST = ["<padding>", "<unknown>"]  # entries 0 and 1 of both vocabularies; known by their index, not by their name


def vocabulary_of(sentences, min_count):
    """Return the vocabularies of words and characters of the training sentences, the most frequent first.

    Args:
        sentences: list of pairs (tokens, tags).
        min_count: minimum number of occurrences of a word.

    Returns:
        words, characters: lists of str that start with the entries for padding and for unknown ones.
        first_rare: index in `words` of the first word that occurs only once.
    """
    counts = Counter(token for tokens, _ in sentences for token in tokens)
    letters = Counter()
    for token, count in counts.items():
        letters.update({letter: count * occurrences for letter, occurrences in Counter(token).items()})
    words, characters = (sorted(found, key=lambda item: (-found[item], item)) for found in (counts, letters))
    words = FIRST + [word for word in words if counts[word] >= min_count]
    first_rare = len(FIRST) + sum(counts[word] > 1 for word in words[len(FIRST) :])
    return words, FIRST + characters, first_rare


def describe(splits, words, characters, first_rare, recipe):
    """Return the content of dataset.json, a dict.

    Tags that are missing in train are included: the network cannot predict them, but the metrics must count the errors.

    Raises:
        UserError: there is only one tag, or the tags follow no known scheme.
    """
    tags = {split: {tag for _, tags in sentences for tag in tags} for split, sentences in splits.items()}
    known = sorted(set.union(*tags.values()), key=lambda tag: (tag != "O", tag.partition("-")[2], tag))
    if len(known) < 2:
        raise UserError(f"all tokens have the same tag, {known[0]}: there is nothing to learn")
    split_tags(known)
    for split in ("val", "test"):
        if unseen := sorted(tags[split] - tags["train"]):
            logging.warning("%s has tags that are missing in train and cannot be learned: %s", split, ", ".join(unseen))
    counts = {split: counts_of(*zip(*sentences, strict=True)) for split, sentences in splits.items()}
    content = [[count["sha256"] for count in counts.values()], words, characters, known]
    return {
        "tags": known,
        "vocab_size": len(words),
        "first_rare": first_rare,
        "num_characters": len(characters),
        "vocabulary": digest(words[len(FIRST) :], characters[len(FIRST) :]),
        "counts": counts,
        "fingerprint": hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        "source": recipe,
    }


def build(source, target, *, min_count=1, seed=230, force=False):
    """Build the dataset folder `target`, completely or not at all.

    Args:
        source: path of the corpus, see `corpora.read_source`.
        target: path of the folder.
        min_count: minimum number of occurrences in train of a word of the vocabulary.
        seed: seed of the random split, if the corpus is a single file.
        force: replace another dataset at `target`.

    Returns:
        The facts in dataset.json, a dict; None if `target` is this dataset already.

    Raises:
        UserError: the source cannot be used, or another dataset is at `target`.
    """
    splits = corpora.read_source(source, seed)
    words, characters, first_rare = vocabulary_of(splits["train"], min_count)
    recipe = {"from": source.resolve().name, "min_count": min_count, "seed": seed}
    facts = describe(splits, words, characters, first_rare, recipe)
    if already_built(target, recipe, force, facts["fingerprint"]):
        return None
    with write_folder(target) as folder:
        for split, sentences in splits.items():
            (folder / split).mkdir()
            for name, lines in zip(FILES, zip(*sentences, strict=True), strict=True):
                write(folder / split / f"{name}.txt", "".join(" ".join(line) + "\n" for line in lines))
        write(folder / "words.txt", "\n".join(words) + "\n")
        write(folder / "characters.txt", "\n".join(characters) + "\n")
        write(folder / FACTS, json.dumps(facts, indent=2) + "\n")
    return facts


def write(file, text):
    file.write_text(text, encoding="utf-8", newline="\n")


def audit(data_dir):
    """Check a dataset of sentences and return a list of Finding.

    Raises:
        UserError: the folder `data_dir` was not made by `build`, or was changed by hand.
    """
    facts = read_facts(data_dir)
    if not {"tags", "vocabulary", "counts"} <= facts.keys():
        raise UserError(f"{data_dir}: its {FACTS} does not describe a dataset of sentences; build one with this script")
    texts = {split: read_split(data_dir / split, facts["counts"][split]) for split in SPLITS}
    sentences = {split: list(zip(*text, strict=True)) for split, text in texts.items()}
    return [
        check_copies("copies", sentences, " ".join),
        check_copies("near copies", sentences, lambda words: re.sub(r"\d+", "0", " ".join(words).lower())),
        check_unknown(sentences, read_index(data_dir / "words.txt")),
        check_tags(sentences, facts["tags"]),
    ]


def check_copies(name, sentences, key):
    """Look for sentences of val and test that are, by their `key`, also in an earlier split. Short ones may well be."""
    seen, found = {key(tokens) for tokens, _ in sentences["train"]}, {}
    for split in ("val", "test"):
        found[split] = [" ".join(tokens) for tokens, _ in sentences[split] if key(tokens) in seen]
        seen |= {key(tokens) for tokens, _ in sentences[split]}
    if not any(found.values()):
        return Finding(GOOD, name, "no sentence of val or test is also in an earlier split")
    counts = [f"{len(same):,} of {split} ({len(same) / len(sentences[split]):.1%})" for split, same in found.items()]
    text = f"also in an earlier split: {', '.join(counts)}"
    if any(len(copy.split(" ")) >= LONG for same in found.values() for copy in same):
        return Finding(BAD, name, f"{text}; remove them", found)
    return Finding(DOUBTFUL, name, f"{text}, all shorter than {LONG} words", found)


def check_unknown(sentences, known):
    rates = {}
    for split in ("val", "test"):
        tokens = [token for words, _ in sentences[split] for token in words]
        rates[split] = sum(token not in known for token in tokens) / len(tokens)
    text = "tokens missing in words.txt: " + ", ".join(f"{rate:.1%} of {split}" for split, rate in rates.items())
    if max(rates.values()) > MANY_UNKNOWN:
        return Finding(DOUBTFUL, "unknown", f'{text}; set "char_embedding_dim" to use their spelling')
    return Finding(GOOD, "unknown", text)


def check_tags(sentences, known):
    counts = {split: Counter(chain.from_iterable(tags for _, tags in sentences[split])) for split in SPLITS}
    rare = [f"{tag} {counts['train'][tag]}" for tag in known if counts["train"][tag] < RARE]
    table = {tag: {split: counts[split][tag] for split in SPLITS} for tag in known}
    outside = ", ".join(f"{counts[split]['O'] / counts[split].total():.0%} of {split}" for split in SPLITS)
    text = f"{len(known)} tags; O is {outside}"
    if rare:
        text += f"; too rare in train to be learned well: {list_some(rare, 6)}"
    return Finding(DOUBTFUL if rare else GOOD, "tags", text, {"counts": table})


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", help="the corpus, a folder or a file (see above)")
    parser.add_argument("--min_count", type=int, default=1, help="treat rarer words of train as unknown (default: 1)")
    parser.add_argument("--audit", type=Path, metavar="DATASET", help="audit this folder instead of building one")
    add_build_arguments(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    utils.set_logger(quiet=args.quiet)
    if args.audit:
        write_findings(args.audit, audit(args.audit))
        return
    if args.source is None:
        raise UserError("give the folder or file of the corpus: build_dataset.py path/to/text")
    target = target_folder(args, DATA, args.source.resolve().stem)
    facts = build(args.source, target, min_count=args.min_count, seed=args.seed, force=args.force)
    if facts:
        rows = [[split, facts["counts"][split]["sentences"], facts["counts"][split]["tokens"]] for split in SPLITS]
        print(tabulate(rows, headers=["split", "sentences", "tokens"], tablefmt="pipe"))
        print(f"\n{facts['vocab_size']} words, {len(facts['tags'])} tags: {' '.join(facts['tags'])}")
        print(f'To train on it, set "dataset": {json.dumps(target.name)} in params.json')
        log_findings(audit(target), "examples/ner/build_dataset.py", target)


if __name__ == "__main__":
    run_script(main)
