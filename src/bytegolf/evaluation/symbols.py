"""Token ids to bits and back, with the model's own probabilities: the coder behind `evaluation.codec`.

Shapes: B streams side by side, V vocabulary, K buckets of C ids each.

An id is coded in two steps, its bucket and then its place inside: of a large vocabulary on a GPU only K + C
numbers a stream then travel to the range coder (constriction's), instead of V. Both steps use the same
integer frequencies, so together they code the id with frequency[id] / Σ frequency, whatever K is.
"""

from typing import Any, Protocol

import constriction
import numpy as np
import torch
from torch import Tensor

from bytegolf.errors import PackedError

# The wheel has no type stubs for its submodules.
_stream: Any = constriction.stream  # pyrefly: ignore[missing-attribute]
_CATEGORICAL = _stream.model.Categorical(perfect=False)

#: Ids in a bucket: K + C is least near the square root of a usual vocabulary.
_BUCKET = 64
#: Frequencies of one distribution sum to at most this, so float32 holds every partial sum exactly.
_TOTAL = 1 << 24


def frequencies(log_probabilities_BV: Tensor) -> Tensor:
    """Integer frequencies ≥ 1 of every id, (B, K, C) int32; ids beyond V are padding.

    1 + ⌊p · (2²⁴ − 2KC)⌋: at most a share 2KC / 2²⁴ of the probability goes to rounding, 0.1 % at a
    vocabulary of 8,192, which is 0.0015 bits a token.
    """
    rows, vocabulary = log_probabilities_BV.shape
    buckets = -(-vocabulary // _BUCKET)
    room = _TOTAL - 2 * buckets * _BUCKET
    assert room > _TOTAL // 2, f"a vocabulary of {vocabulary} is too large for 24-bit frequencies"
    counts_BV = 1 + (log_probabilities_BV.exp() * room).to(torch.int32)
    padded = torch.nn.functional.pad(counts_BV, (0, buckets * _BUCKET - vocabulary), value=1)
    return padded.view(rows, buckets, _BUCKET)


class Coder(Protocol):
    """Codes one id a stream. The encoder is told the ids, the decoder finds them; both return them."""

    def code(self, frequencies_BKC: Tensor, known_B: np.ndarray | None) -> np.ndarray:
        """The ids (B,) int64, coded with these frequencies, first stream first."""
        ...


class DamagedBlock(Exception):
    """The words of a block cannot have been written with these frequencies."""


class Encoder:
    """Writes ids into a stream of words."""

    def __init__(self) -> None:
        self._coder = _stream.queue.RangeEncoder()

    def code(self, frequencies_BKC: Tensor, known_B: np.ndarray | None) -> np.ndarray:
        assert known_B is not None
        bucket_B, place_B = np.divmod(known_B, _BUCKET)
        self._coder.encode(bucket_B.astype(np.int32), _CATEGORICAL, _bucket_totals(frequencies_BKC))
        self._coder.encode(place_B.astype(np.int32), _CATEGORICAL, _inside(frequencies_BKC, bucket_B))
        return known_B

    def finish(self) -> bytes:
        """The words written since the last call, little-endian; the next id begins a new stream."""
        words = self._coder.get_compressed().astype("<u4").tobytes()
        self._coder = _stream.queue.RangeEncoder()
        return words


class Decoder:
    """Reads ids of a vocabulary from the words of one `Encoder.finish`."""

    def __init__(self, words: bytes, vocabulary: int) -> None:
        if len(words) % 4:
            raise PackedError(f"a coded block of {len(words)} bytes is not a whole number of words")
        self._coder = _stream.queue.RangeDecoder(np.frombuffer(words, dtype="<u4").astype(np.uint32))
        self._vocabulary = vocabulary

    def code(self, frequencies_BKC: Tensor, known_B: np.ndarray | None) -> np.ndarray:
        assert known_B is None
        try:
            bucket_B = self._coder.decode(_CATEGORICAL, _bucket_totals(frequencies_BKC)).astype(np.int64)
            place_B = self._coder.decode(_CATEGORICAL, _inside(frequencies_BKC, bucket_B)).astype(np.int64)
        except (AssertionError, ValueError) as error:
            raise DamagedBlock from error
        ids_B = bucket_B * _BUCKET + place_B
        # Padding has frequencies too, so damaged words can name it.
        if ids_B.max() >= self._vocabulary:
            raise DamagedBlock
        return ids_B

    @property
    def exhausted(self) -> bool:
        """Whether the words may have been read to their end; False is certain."""
        return bool(self._coder.maybe_exhausted())


def _bucket_totals(frequencies_BKC: Tensor) -> np.ndarray:
    # Sums of integers do not depend on their order, as sums of floats would.
    return frequencies_BKC.sum(dim=2, dtype=torch.int32).float().cpu().numpy()


def _inside(frequencies_BKC: Tensor, bucket_B: np.ndarray) -> np.ndarray:
    rows = torch.arange(len(bucket_B), device=frequencies_BKC.device)
    chosen = torch.from_numpy(bucket_B).to(frequencies_BKC.device)
    return frequencies_BKC[rows, chosen].float().cpu().numpy()
