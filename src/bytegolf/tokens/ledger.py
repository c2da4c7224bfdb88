"""The byte ledger: how many bytes of text each token stands for. Nothing else in the package counts bytes.

Bits per byte divide by this count, so an error here is an error in every score.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

from bytegolf.text.casing import MARKERS
from bytegolf.tokens.sentence_pieces import BYTE, NORMAL, SPACE, USER_DEFINED, Pieces, SentencePieceTokenizer
from bytegolf.tokens.tokenizer import Tokenizer


def byte_counts(tokenizer: Tokenizer, ids: np.ndarray, previous: int | None) -> np.ndarray:
    """int32, shape of `ids`: the bytes of each token.

    `previous` is the id before the first one, None if there is none.

    A lossless tokenizer's ids stand for fixed numbers of bytes, so the counts of a document sum to the length
    of its UTF-8; bos counts 0, and so do the markers of capitals. The 16 MB challenge's lossy models count as
    the challenge does: a control piece 0, a marker of capitals 0, a byte piece 1, any other its UTF-8 without
    one leading space, plus 1 for that space unless the token before it is a control piece or missing.
    """
    flat = np.asarray(ids).reshape(-1)
    if tokenizer.lossless or not isinstance(tokenizer, SentencePieceTokenizer):
        return _fixed_counts(tokenizer.token_bytes)[flat].reshape(np.shape(ids))
    rule = _challenge_rule(tokenizer.pieces)
    before_boundary = np.empty(len(flat), dtype=bool)
    before_boundary[1:] = rule.boundary[flat[:-1]]
    before_boundary[:1] = previous is None or rule.boundary[previous]
    counts = rule.base[flat] + (rule.leading_space[flat] & ~before_boundary)
    return counts.astype(np.int32).reshape(np.shape(ids))


@functools.lru_cache(maxsize=8)
def _fixed_counts(token_bytes: tuple[bytes, ...]) -> np.ndarray:
    return np.array([len(piece) for piece in token_bytes], dtype=np.int32)


@dataclass(frozen=True)
class _ChallengeRule:
    base: np.ndarray
    leading_space: np.ndarray
    boundary: np.ndarray


@functools.lru_cache(maxsize=8)
def _challenge_rule(pieces: Pieces) -> _ChallengeRule:
    size = len(pieces.names)
    rule = _ChallengeRule(np.zeros(size, np.int32), np.zeros(size, bool), np.zeros(size, bool))
    for index, (name, kind) in enumerate(zip(pieces.names, pieces.types, strict=True)):
        if kind == BYTE:
            rule.base[index] = 1
        elif pieces.casing and name in MARKERS:
            continue
        elif kind in (NORMAL, USER_DEFINED):
            rule.leading_space[index] = name.startswith(SPACE)
            rule.base[index] = len(name.removeprefix(SPACE).encode())
        else:
            rule.boundary[index] = True
    return rule


def bits_per_byte(nats: float, byte_count: float) -> float:
    """Σ nats / (ln 2 · bytes); NaN where there are no bytes."""
    return nats / (math.log(2.0) * byte_count) if byte_count else math.nan
