"""Texts as vectors without a language model: hashed words, pairs of words and letters, and one linear layer.

Words that were never seen share their letters with some that were. No file is needed, and the same text gives the same
vector on every machine.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

HASHED = 512
LETTERS = 3  # in a row


def hashed_texts(texts: Sequence[str], size: int = HASHED) -> Tensor:
    """Signed counts of features in hashed places, to unit length; a text without letters is 0. Shapes: -> (N, size)."""
    table = torch.zeros(len(texts), size)
    for row, text in zip(table, texts, strict=True):
        for feature in _features(text):
            digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
            row[(digest >> 1) % size] += 1.0 if digest & 1 else -1.0
        length = math.sqrt(float(row.square().sum()))
        if length > 0:
            row /= length
    return table


def _features(text: str) -> Iterator[str]:
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    yield from (f"word {word}" for word in words)
    yield from (f"pair {a} {b}" for a, b in pairwise(words))
    for word in words:
        padded = f"<{word}>"
        yield from (f"part {padded[at : at + LETTERS]}" for at in range(max(1, len(padded) - LETTERS + 1)))
