"""The data: batches of sentences of about the same length, with the tags of their tokens."""

import hashlib
from pathlib import Path

import torch
from pydantic import Field
from torch.utils.data import DataLoader, Dataset, Sampler

import utils
from model.corpora import lines_of, read_text
from toolkit.core.entity_tags import entities
from toolkit.core.image_dataset import read_facts
from utils import UserError

PADDING, UNKNOWN = 0, 1  # the first two words of words.txt, and characters of characters.txt
FILES = ("sentences", "labels")
POOL = 50  # batches that are sorted by length together: more waste less, fewer mix better
LONGEST_WORD = 32  # characters of a word that are looked at, so that a long web address does not slow a batch down


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    char_embedding_dim: int = Field(0, ge=0, description="size of character embedding and features; 0: none")


class Sentences(Dataset):
    """Sentences, in memory as flat tensors, so that a batch is some index operations.

    Args:
        sentences, labels: the tokens and their tags, two lists of lists of str.
        data_dir: dataset folder that build_dataset.py made, by whose words.txt the network knows words.
        params: hyperparameters and facts of the dataset; `char_embedding_dim` says whether characters are looked at.

    Raises:
        UserError: words.txt was changed by hand.
    """

    def __init__(self, sentences, labels, data_dir, params):
        tokens = [token for sentence in sentences for token in sentence]
        vocabulary, alphabet = (read_index(Path(data_dir) / name) for name in ("words.txt", "characters.txt"))
        if params.vocabulary != digest(vocabulary, alphabet):
            raise changed_by_hand(Path(data_dir) / "words.txt")
        numbers = {tag: number for number, tag in enumerate(params.tags)}
        self.tags = torch.tensor([numbers[tag] for tags in labels for tag in tags])  # (tokens,)
        self.words = torch.tensor([vocabulary.get(token, UNKNOWN) for token in tokens])  # (tokens,)
        self.items = [" ".join(sentence) for sentence in sentences]  # for the report of an evaluation
        self.lengths = torch.tensor([len(sentence) for sentence in sentences])  # (sentences,)
        self.starts = self.lengths.cumsum(0) - self.lengths  # (sentences,), where each one's tokens begin
        self.spellings = None
        if params.char_embedding_dim:
            distinct = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
            rows = [torch.tensor([alphabet.get(c, UNKNOWN) for c in token[:LONGEST_WORD]]) for token in distinct]
            self.spellings = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (distinct words, C)
            self.spelling = torch.tensor([distinct[token] for token in tokens])  # (tokens,), rows of it

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, indices):
        """Return the batch of the sentences at `indices`, int64 (B,), a dict; `unpack_batch` in net.py takes it apart.

        "words", int64 (B, T), padded, and "lengths", int64 (B,); of the real tokens, one sentence after the other,
        "tags", int64 (tokens,), and where they are looked at "characters", int64 (tokens, C), padded.
        """
        lengths = self.lengths[indices]  # (B,)
        places = torch.arange(int(lengths.max()))  # (T,)
        real = places < lengths.unsqueeze(1)  # (B, T)
        tokens = (self.starts[indices].unsqueeze(1) + places)[real]  # (tokens,)
        words = torch.full(real.shape, PADDING)
        words[real] = self.words[tokens]  # (B, T)
        batch = {"words": words, "lengths": lengths, "tags": self.tags[tokens]}
        if self.spellings is not None:
            characters = self.spellings[self.spelling[tokens]]  # (tokens, C)
            batch["characters"] = characters[:, : (characters != PADDING).sum(1).max()]
        return batch


class LengthBuckets(Sampler):
    """The indices of each batch, a tensor: sentences of about the same length, so that there is little padding.

    With `shuffle`, the sentences are shuffled, pools of POOL batches sorted by length, and the batches shuffled, anew
    every epoch, from torch's generator, which train.py seeds with (seed, epoch). Without, all are sorted by length.
    """

    def __init__(self, lengths, batch_size, shuffle):
        self.lengths, self.batch_size, self.shuffle = lengths, batch_size, shuffle

    def __iter__(self):
        order = torch.randperm(len(self.lengths)) if self.shuffle else torch.arange(len(self.lengths))
        pools = order.split(POOL * self.batch_size if self.shuffle else len(order))
        ordered = torch.cat([pool[self.lengths[pool].argsort(stable=True)] for pool in pools])
        batches = ordered.split(self.batch_size)
        return iter([batches[i] for i in torch.randperm(len(batches))] if self.shuffle else batches)

    def __len__(self):
        return -(-len(self.lengths) // self.batch_size)


def read_split(folder, counts):
    """Return the sentences and labels of a split, two lists of lists of str; `counts` are those in dataset.json.

    Raises:
        UserError: it is something else.
    """
    sentences, labels = ([line.split(" ") for line in read_lines(folder / f"{name}.txt")] for name in FILES)
    if counts != counts_of(sentences, labels):
        raise changed_by_hand(folder)
    return sentences, labels


def counts_of(sentences, labels):
    """Return the entry of a split in dataset.json, a dict: numbers of sentences and tokens, and a digest of both."""
    lines = (map(" ".join, part) for part in (sentences, labels))
    return {"sentences": len(sentences), "tokens": sum(map(len, sentences)), "sha256": digest(*lines)}


def digest(*lists):
    """Return the SHA-256 of the strings of some iterables, in hexadecimal."""
    return hashlib.sha256("\0".join("\n".join(strings) for strings in lists).encode()).hexdigest()


def read_index(file):
    """A dict from word (or character) to its number, the lines of a file; lines 0 and 1 are for padding and unknown."""
    return {line: number for number, line in enumerate(read_lines(file)) if number > UNKNOWN}


def read_lines(file):
    """Return the lines of a file that build_dataset.py wrote, a list; its line endings may have changed since."""
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError):
        raise changed_by_hand(file) from None


def changed_by_hand(place):
    """Return the UserError about a file or folder that is not as dataset.json beside it says."""
    return UserError(f"{place}: not what dataset.json says, changed by hand; build it again with --force")


def fetch_dataloader(types, data_dir, params):
    """Return the data loaders of the splits in `types`.

    Args:
        types: list of one or more of "train", "val", "test".
        data_dir: dataset folder, made by build_dataset.py beside this folder.
        params: hyperparameters; they get the defaults of this file, and the facts of the dataset.

    Returns:
        dict from split to a DataLoader of batches of `Sentences`. No sentence is dropped; one batch may be smaller.
    """
    params.declare(Hyperparameters)
    params.add_facts(read_facts(data_dir), source=f"{data_dir}/dataset.json")
    if not hasattr(params, "vocabulary"):
        raise UserError(f"{data_dir}: not a dataset of sentences; make one with examples/ner/build_dataset.py")
    pinned, dataloaders = getattr(params, "cuda", False), {}  # pinned memory: for fast copies to the GPU
    for split in types:
        sentences, labels = read_split(Path(data_dir) / split, params.counts[split])
        dataset = Sentences(sentences, labels, data_dir, params)
        batches = LengthBuckets(dataset.lengths, params.batch_size, shuffle=split == "train")
        # batch_size=None: the dataset gives whole batches, so the loader has nothing to put together
        dataloaders[split] = DataLoader(dataset, sampler=batches, batch_size=None, pin_memory=pinned)
    return dataloaders


def read_items(files, params):
    """New text for predict.py: a sentence a line, its tokens (a comma is one, too) separated by blanks.

    Returns:
        The sentences, a list of str, and batches of the inputs of Net in their order.

    Raises:
        UserError: a file is not text, there is no sentence, or the dataset's words are not there.
    """
    sentences = [line.split() for file in files for line in lines_of(read_text(file)) if line.strip()]
    if not sentences:
        raise UserError(f"{files[0]}: no sentences in it; a line should be one" if files else "no files are given")
    if not (Path(params.data_dir) / "words.txt").exists():
        raise UserError(f"{params.data_dir}: has no words.txt, whose lines the model knows words by; see --data_dir")
    no_tags = [params.tags[:1] * len(sentence) for sentence in sentences]
    dataset = Sentences(sentences, no_tags, params.data_dir, params)
    batches = [dataset[indices] for indices in torch.arange(len(dataset)).split(params.batch_size)]
    inputs = [{name: tensor for name, tensor in batch.items() if name != "tags"} for batch in batches]
    return [" ".join(sentence) for sentence in sentences], inputs


def describe(outputs, names, params):
    """Return the entities in each sentence for predict.py, a list of dicts such as {"entities": "Anna [PER]"}.

    Args:
        outputs: logits, array (tokens, num_tags), of all sentences.
        names: the sentences, a list of str.
        params: `tags`, the names of the tags.
    """
    tags, rows = iter(outputs.argmax(axis=1)), []
    for name in names:
        words = name.split(" ")
        found = entities([params.tags[next(tags)] for _ in words])
        rows.append({"entities": ", ".join(f"{' '.join(words[a : b + 1])} [{kind}]" for (a, b), kind in found.items())})
    return rows
