"""How fast the named-entity example trains, beside CS230's loop with the same network: tokens a second.

python benchmarks/ner.py                                              # the bundled sample, a minute
python benchmarks/ner.py --data_dir examples/ner/data/wnut17          # a built dataset

Embedding 50, LSTM 50 in one direction, Adam; 32 sentences a batch here, 5 there, as each one comes. The sample's epoch
has three of our batches, so that what is done once an epoch weighs; a real corpus shows what a step takes.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evaluate import evaluate  # noqa: E402
from toolkit.core.run import Run  # noqa: E402
from toolkit.core.setup import set_up  # noqa: E402
from train import train  # noqa: E402
from utils import RunningAverage, set_seed  # noqa: E402

EXAMPLE = ROOT / "examples" / "ner"
NETWORK = {
    "embedding_dim": 50,
    "lstm_hidden_dim": 50,
    "bidirectional": False,
    "dropout_rate": 0,
    "char_embedding_dim": 0,
}
TOKENS = 20_000  # that one measurement is of, at least
SAVE_SUMMARY_STEPS = 100


class ClassicNet(nn.Module):
    """CS230's network: it goes over padding, too."""

    def __init__(self, vocab_size, num_tags):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, NETWORK["embedding_dim"])
        self.lstm = nn.LSTM(NETWORK["embedding_dim"], NETWORK["lstm_hidden_dim"], batch_first=True)
        self.fc = nn.Linear(NETWORK["lstm_hidden_dim"], num_tags)

    def forward(self, words):
        x, _ = self.lstm(self.embedding(words))  # (B, T, lstm_hidden_dim)
        return F.log_softmax(self.fc(x.reshape(-1, x.shape[2])), dim=1)  # (B T, num_tags)


def classic_batches(sentences, labels, batch_size):
    """CS230's `data_iterator`: shuffled with one seed, padded one sentence after the other; an odd rest is dropped."""
    order = list(range(len(sentences)))
    random.Random(230).shuffle(order)
    for step in range(len(order) // batch_size):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        longest = max(len(sentences[i]) for i in chosen)
        words, tags = np.zeros((batch_size, longest)), -np.ones((batch_size, longest))
        for row, i in enumerate(chosen):
            words[row, : len(sentences[i])] = sentences[i]
            tags[row, : len(labels[i])] = labels[i]
        yield torch.LongTensor(words), torch.LongTensor(tags)


def classic_loss(outputs, tags):
    """The mean over tokens that are not padding, by indexing and a mask."""
    tags = tags.view(-1)
    mask = (tags >= 0).float()
    tags = tags % outputs.shape[1]
    return -torch.sum(outputs[range(outputs.shape[0]), tags] * mask) / int(torch.sum(mask))


def classic_epoch(model, optimizer, sentences, labels, batch_size):
    """One epoch of CS230's loop. Returns the tokens that it was of, without padding."""
    average, tokens = RunningAverage(), 0
    for step, (words, tags) in enumerate(classic_batches(sentences, labels, batch_size)):
        outputs = model(words)
        loss = classic_loss(outputs, tags)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % SAVE_SUMMARY_STEPS == 0:
            found, expected = outputs.data.cpu().numpy().argmax(axis=1), tags.data.cpu().numpy().ravel()
            np.sum(found == expected) / float(np.sum(expected >= 0))
        average.update(loss.item())
        tokens += int((tags >= 0).sum())
    return tokens


def classic(task, params, data_dir, epochs):
    """Tokens a second of CS230's loop."""
    dataset = task.fetch_dataloader(["train"], data_dir, params)["train"].dataset
    lengths = dataset.lengths.tolist()
    sentences, labels = ([part.tolist() for part in flat.split(lengths)] for flat in (dataset.words, dataset.tags))
    set_seed(params.seed)
    model = ClassicNet(params.vocab_size, len(params.tags))
    optimizer = torch.optim.Adam(model.parameters(), lr=params.learning_rate)
    model.train()
    started = time.perf_counter()
    tokens = sum(classic_epoch(model, optimizer, sentences, labels, 5) for _ in range(epochs))
    return tokens / (time.perf_counter() - started)


def ours(task, params, data_dir, epochs):
    """Tokens a second of train.py's loop, its metrics and all that it keeps for going on included."""
    params.num_epochs = epochs
    set_seed(params.seed)
    loaders = task.fetch_dataloader(["train", "val"], data_dir, params)
    model = task.make_model(params)
    optimizer, loss_fn = task.make_optimizer(model, params), task.loss_fn(params)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder, Run(model, optimizer, params, folder) as run:
        for epoch in run.epochs():
            started = time.perf_counter()
            results = train(model, optimizer, loss_fn, loaders["train"], task.metrics, params, run=run)
            seconds += time.perf_counter() - started
            run.record(epoch, results, evaluate(model, loss_fn, loaders["val"], task.metrics, params))
    return epochs * len(loaders["train"].dataset.words) / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=EXAMPLE / "data" / "sample", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    overrides = NETWORK | {"batch_size": 32}
    task, params, data_dir = set_up(EXAMPLE / "experiments" / "base_model", args.data_dir, "cpu", overrides=overrides)
    epochs = -(-TOKENS // params.counts["train"]["tokens"])
    for way in (classic, ours):  # once, before it counts
        way(task, params, data_dir, 1)
    rates = []
    for number in range(args.rounds):  # turn by turn, so that what else the machine does hits both alike
        ways = (classic, ours) if number % 2 else (ours, classic)
        rates.append({way.__name__: way(task, params, data_dir, epochs) for way in ways})
    ratios = [rate["ours"] / rate["classic"] for rate in rates]
    row = {
        "data": data_dir.name,
        "tokens a second, CS230's loop": statistics.median(rate["classic"] for rate in rates),
        "ours": statistics.median(rate["ours"] for rate in rates),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }
    print(tabulate([row], headers="keys", tablefmt="pipe", floatfmt=(None, ".0f", ".0f", ".1f", ".1f", ".1f")))
    print(f"\n{args.rounds} rounds, {torch.get_num_threads()} threads; ratio: the median of the rounds'")


if __name__ == "__main__":
    main()
