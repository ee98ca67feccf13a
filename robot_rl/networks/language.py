"""Instructions become vectors, by a table, by hashing, or by a model that lies on this machine. None is ever trained.

Which one was used, and what it makes of a fixed sentence, is its `name` and `fingerprint`: a critic that learned with
one encoder says nothing to the vectors of another.
"""

import hashlib
import importlib
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load_file

from robot_rl.checks import require_range
from robot_rl.errors import InputError, nearest
from robot_rl.networks.text import HASHED, hashed_texts
from robot_rl.types import Array

SENTENCE = "put the red block into the drawer"
MAXIMUM_TEXT = 2000  # characters


class TextEncoder(Protocol):
    """Text to one vector of fixed size."""

    @property
    def name(self) -> str:
        """Which one it is, for checkpoints and messages."""

    @property
    def size(self) -> int:
        """D."""

    def encode(self, text: str) -> Array:
        """Shapes: -> (D,), float32.

        Raises:
            InputError: a text that it does not know.
        """


def fingerprint(encoder: TextEncoder) -> str:
    """Twelve digits that differ between encoders: of the vector of a fixed sentence, or of a table's own vectors."""
    vector = encoder.digest() if isinstance(encoder, TableText) else encoder.encode(SENTENCE)
    return hashlib.sha256(np.round(np.asarray(vector, np.float64), 4).tobytes()).hexdigest()[:12]


def plain(text: str) -> str:
    """One form of what means the same: composed characters, lower case, single spaces, no full stop at the end."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", folded).strip().rstrip(".")


@dataclass(frozen=True, kw_only=True)
class HashText:
    """Words, pairs of words and letters, hashed (`networks/text.py`): words that were never seen degrade gently.

    Args:
        size: D.
    """

    size: int = HASHED

    def __post_init__(self) -> None:
        require_range(self.size, 8, 65536, "language size")

    @property
    def name(self) -> str:
        """Which one it is."""
        return f"hash({self.size})"

    def encode(self, text: str) -> Array:
        """Shapes: -> (D,), of length 1; 0 for a text without words."""
        vector: Array = hashed_texts([plain(text[:MAXIMUM_TEXT])], self.size)[0].numpy()
        return vector


@dataclass(frozen=True, kw_only=True, eq=False)
class TableText:
    """Vectors that somebody made before: for known instructions nothing is lost, as the vectors are never trained.

    Args:
        path: of a .npz with `texts` (N,) and `vectors` (N, D), or of a .safetensors whose names are the texts.

    Raises:
        InputError: no such file, or not in this form.
    """

    path: str
    vectors: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", _table(Path(self.path).expanduser()))

    @property
    def name(self) -> str:
        """Which one it is."""
        return f"table({self.path})"

    @property
    def size(self) -> int:
        """D."""
        return len(next(iter(self.vectors.values())))

    def encode(self, text: str) -> Array:
        """Shapes: -> (D,)."""
        key = plain(text)
        if key not in self.vectors:
            raise InputError(f"{self.path} has no vector of {text[:100]!r}: {nearest(key, self.vectors)}; add it")
        return self.vectors[key]

    def digest(self) -> Array:
        """All vectors, in the order of their texts. Shapes: -> (N, D)."""
        return np.stack([self.vectors[key] for key in sorted(self.vectors)])


def _table(path: Path) -> dict[str, Array]:
    wanted = "a .npz with `texts` (N,) and `vectors` (N, D), or a .safetensors whose names are the texts"
    try:
        if path.suffix == ".safetensors":
            pairs = list(load_file(path).items())
        else:
            with np.load(path, allow_pickle=False) as file:
                texts, vectors = file["texts"], file["vectors"]
            if texts.ndim != 1 or vectors.ndim != 2 or len(texts) != len(vectors):
                raise InputError(f"{path}: texts {texts.shape} and vectors {vectors.shape}; wanted is {wanted}")
            pairs = [(str(text), vector) for text, vector in zip(texts, vectors, strict=True)]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): wanted is {wanted}") from error
    found = {plain(text): np.asarray(vector, np.float32) for text, vector in pairs}
    sizes = {vector.shape for vector in found.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        raise InputError(f"{path} holds vectors of shapes {sorted(sizes)}: wanted is {wanted}")
    if len(found) < len(pairs):
        raise InputError(f"{path} holds a text twice, but for spaces and capitals")
    if not all(np.isfinite(vector).all() for vector in found.values()):
        raise InputError(f"{path} holds vectors with NaN or infinite numbers")
    return found


@dataclass(kw_only=True, eq=False)
class ModelText:
    """A sentence encoder of the package transformers that lies in a folder: the mean of its last layer over tokens.

    Args:
        path: of the folder, with weights and tokenizer; nothing is downloaded.

    Raises:
        InputError: transformers is not installed, or the folder holds no model.
    """

    path: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    size: int = field(init=False)
    _model: Any = field(init=False)
    _tokenizer: Any = field(init=False)
    _known: dict[str, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        folder = str(Path(self.path).expanduser())
        try:
            transformers = importlib.import_module("transformers")
        except ImportError as error:
            raise InputError(
                "language.encoder=model needs the package transformers; without it: language.encoder=table, with "
                "vectors made elsewhere, or language.encoder=hash"
            ) from error
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"language.path={self.path} holds no text model: {error}") from error
        # Of models with an encoder and a decoder (T5) the first half is what reads.
        self._model = (model.get_encoder() if model.config.is_encoder_decoder else model).to(self.device).eval()
        self.size = len(self.encode(SENTENCE))

    @property
    def name(self) -> str:
        """Which one it is."""
        return f"model({self.path})"

    def encode(self, text: str) -> Array:
        """Shapes: -> (D,)."""
        key = plain(text[:MAXIMUM_TEXT])
        if key not in self._known:
            tokens = self._tokenizer(key, return_tensors="pt", truncation=True).to(self.device)
            with torch.no_grad():
                states = self._model(**tokens).last_hidden_state[0]  # (tokens, D)
            weight = tokens["attention_mask"][0][:, None].to(states.dtype)
            self._known[key] = ((states * weight).sum(0) / weight.sum()).float().cpu().numpy()
        return self._known[key]
