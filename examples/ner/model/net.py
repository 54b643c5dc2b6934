"""Named-entity recognition: network, loss, metrics, and the hyperparameters that they read."""

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import utils
from model.data_loader import PADDING, UNKNOWN
from model.entities import entity_scores


class Hyperparameters(utils.Hyperparameters):
    """The keys of params.json that this file reads. Declaring one is optional: it adds a type, bounds and a default."""

    embedding_dim: int = Field(100, ge=1, description="size of the word embedding")
    lstm_hidden_dim: int = Field(200, ge=1, description="units of the LSTM, in each direction")
    lstm_layers: int = Field(1, ge=1, description="layers of the LSTM")
    bidirectional: bool = Field(True, description="read the sentence in both directions")
    dropout_rate: float = Field(0.5, ge=0, lt=1, description="probability that dropout zeroes a unit")
    unknown_rate: float = Field(
        0.5, ge=0, le=1, description="probability that a word that occurs once counts as unknown"
    )


class Net(nn.Module):
    """An LSTM over word embeddings and, if asked for, character features; a linear layer computes the tags' logits.

    Args:
        params: the hyperparameters above and `char_embedding_dim`; facts of the dataset: `tags`, `vocab_size`,
            `num_characters`, and `first_rare`, the index of the first word that occurs only once in train.
    """

    def __init__(self, params):
        super().__init__()
        params.declare(Hyperparameters)
        self.first_rare, self.unknown_rate = params.first_rare, params.unknown_rate
        self.embedding = nn.Embedding(params.vocab_size, params.embedding_dim, padding_idx=PADDING)
        char_dim = params.char_embedding_dim
        self.characters = CharacterFeatures(params.num_characters, char_dim, params.dropout_rate) if char_dim else None
        self.dropout = nn.Dropout(params.dropout_rate)
        self.lstm = nn.LSTM(
            params.embedding_dim + char_dim,
            params.lstm_hidden_dim,
            num_layers=params.lstm_layers,
            dropout=params.dropout_rate if params.lstm_layers > 1 else 0,
            bidirectional=params.bidirectional,
            batch_first=True,
        )
        self.linear = nn.Linear(params.lstm_hidden_dim * (2 if params.bidirectional else 1), len(params.tags))
        with torch.no_grad():  # rare words stay near their initial values; PyTorch's N(0, 1) would add much noise
            self.embedding.weight *= params.embedding_dim**-0.5

    def forward(self, inputs):
        """Compute the logits of the tokens of a batch, sentence after sentence, without padding.

        Args:
            inputs: dict with "words", int64 (B, T), indices of words; "lengths", int64 (B,), tokens per sentence; and
                with character features "characters", int64 (tokens, C), the characters of each token.

        Returns:
            float (tokens, num_tags).
        """
        words = inputs["words"]
        real = words != PADDING  # (B, T)
        x = self.embedding(self.with_unknown(words) if self.training else words)  # (B, T, embedding_dim)
        if self.characters is not None:
            features = self.characters(inputs["characters"])  # (tokens, char_embedding_dim)
            placed = features.new_zeros(*words.shape, features.shape[1])
            placed[real] = features  # (B, T, char_embedding_dim)
            x = torch.cat([x, placed], dim=2)
        x = self.dropout(x)
        if self.lstm.bidirectional and getattr(torch.compiler, "is_exporting", bool)():  # torch 2.6 has none
            x = self.both_ways(x, inputs["lengths"].unsqueeze(1))
        elif (
            self.lstm.bidirectional
        ):  # packed, so that the backward direction starts at the last token of each sentence
            packed = pack_padded_sequence(x, inputs["lengths"].cpu(), batch_first=True, enforce_sorted=False)
            x, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)  # (B, T, 2 lstm_hidden_dim)
        else:  # padding comes last, so it changes nothing; without packing a CPU is three times as fast
            x, _ = self.lstm(x)  # (B, T, lstm_hidden_dim)
        return self.linear(self.dropout(x[real]))  # (tokens, num_tags)

    def both_ways(self, x, lengths):
        """Compute what the packed LSTM does in evaluation mode with one-directional LSTMs: packing cannot be exported.

        From float (B, T, features), padded, and lengths, int64 (B, 1), to float (B, T, 2 lstm_hidden_dim).
        """
        place = torch.arange(x.shape[1], device=x.device)  # (T,)
        turned = torch.where(place < lengths, lengths - 1 - place, place).unsqueeze(2)  # (B, T, 1): last token first
        state = (x.new_zeros(1, x.shape[0], self.lstm.hidden_size),) * 2  # hidden and cell, before the first token

        def turn(x):
            return x.gather(1, turned.expand(-1, -1, x.shape[2]))

        for forth, back in zip(self.lstm.all_weights[::2], self.lstm.all_weights[1::2], strict=True):  # of each layer
            ahead = torch.lstm(x, state, tuple(forth), True, 1, 0.0, False, False, True)[0]  # (B, T, lstm_hidden_dim)
            behind = torch.lstm(turn(x), state, tuple(back), True, 1, 0.0, False, False, True)[0]
            x = torch.cat([ahead, turn(behind)], dim=2)  # (B, T, 2 lstm_hidden_dim)
        return x

    def with_unknown(self, words):
        """Replace some of the words that occur once in train by the unknown word, which is trained in this way.

        After Lample et al., "Neural Architectures for Named Entity Recognition" (2016), section 4.1.
        """
        replaced = (words >= self.first_rare) & (torch.rand(words.shape, device=words.device) < self.unknown_rate)
        return words.masked_fill(replaced, UNKNOWN)


class CharacterFeatures(nn.Module):
    """Features of a word from its characters: a convolution of width 3, then the maximum over the word.

    After Ma and Hovy, "End-to-end Sequence Labeling via Bi-directional LSTM-CNNs-CRF" (2016), section 2.1.

    Args:
        num_characters: number of characters, including padding and the unknown one.
        dim: size of the character embedding, and number of features of a word.
        dropout_rate: probability that dropout zeroes a number of a character embedding.
    """

    def __init__(self, num_characters, dim, dropout_rate):
        super().__init__()
        self.embedding = nn.Embedding(num_characters, dim, padding_idx=PADDING)
        self.dropout = nn.Dropout(dropout_rate)
        self.convolution = nn.Conv1d(dim, dim, kernel_size=3, padding=1)

    def forward(self, characters):
        """Compute features, float (tokens, dim), from characters, int64 (tokens, C), padded."""
        x = self.dropout(self.embedding(characters)).transpose(1, 2)  # (tokens, dim, C)
        x = self.convolution(x).masked_fill((characters == PADDING).unsqueeze(1), -torch.inf)
        return x.amax(dim=2)  # (tokens, dim)


def unpack_batch(batch):
    """Return a batch of the data loader, a dict, as (inputs, labels).

    The tags come first in the labels, so that a batch is weighted by its tokens in the loss of a split.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "tags"}
    return inputs, {"tags": batch["tags"], "lengths": batch["lengths"]}


def loss_fn(outputs, labels):
    """Return the cross entropy, the mean over the tokens of a batch.

    Args:
        outputs: logits, float (tokens, num_tags).
        labels: dict with "tags", int64 (tokens,).

    Returns:
        Scalar tensor.
    """
    return F.cross_entropy(outputs, labels["tags"])


def accuracy(outputs, labels):
    """Return the fraction of tokens with the right tag. Most are outside entities, so it is high from the first epoch.

    Args:
        outputs: logits, array (tokens, num_tags), for all tokens of a split.
        labels: dict with "tags", int array (tokens,).

    Returns:
        float in [0, 1].
    """
    return np.mean(outputs.argmax(axis=1) == labels["tags"])


metrics = {
    "accuracy": accuracy,
    "entities": entity_scores,  # precision, recall and f1, overall and by type
}
