"""SentencePiece BPE tokenizers, rebuilt from a table of pieces instead of a `.model` file.

A model is lossless if it was trained as `bytegolf.tokens.training` does it: text passes through unchanged,
a space is the piece character U+2581, and what has no piece is spelled in byte pieces. A literal U+2581 and
bytes that are not valid UTF-8 never reach SentencePiece; they are spelled in byte pieces here. Every other
model (the 16 MB challenge's normalize to NFKC and collapse whitespace) is marked lossy.

With casing, the text is written with marked capitals first (`text.casing`), and the four markers are
user-defined pieces, which merge with nothing. Markers that stand in the text itself are spelled in byte
pieces like U+2581, so an exact model never writes ESC, and each id keeps its number of bytes. A lossy one
gets the text as the challenge's own does, with ESC and a second marker piece, which together are lost.
"""

import functools
import itertools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from bytegolf import tree
from bytegolf.errors import RecipeError, TokenizerError
from bytegolf.text.casing import MARKERS, CapsStream, Casing, lossless_caps
from bytegolf.tokens.bytes_text import as_bytes, look_up, split_valid
from bytegolf.tokens.normalization import Normalizer, read_normalizer
from bytegolf.tokens.protobuf import bytes_field, fixed32_field, read_fields, varint_field
from bytegolf.tokens.table import (
    MAX_PIECES,
    TableTokenizer,
    pack_pieces,
    pack_table,
    unpack_pieces,
)
from bytegolf.tokens.words import SEPARATOR, WordIds, words_within

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"
# What a table calls its tokenizer. One kind for each form, so that a program that does not know it says so.
KINDS: dict[Casing, str] = {
    False: "sentencepiece",
    True: "sentencepiece with casing",
    "before_space": "sentencepiece with casing before spaces",
}
_BPE = 2
_MODEL_TYPE, _WHITESPACE_SUFFIX, _BYTE_FALLBACK = 3, 24, 35

# What pieces without bytes stand for among characters that are bytes: no letter, and gone in the end.
_NOTHING = "\ufffd"

# The library reports the building of normalization rules on stderr unless told not to.
sentencepiece.SetMinLogLevel(2)


@dataclass(frozen=True)
class Pieces:
    """The pieces of a model in order of their ids. Those of type NORMAL are in order of merging.

    Byte pieces have an empty name: they are the bytes 0..255 in this order. With `casing` the text is
    written with marked capitals, and the markers are pieces of type USER_DEFINED.
    """

    names: tuple[str, ...]
    types: bytes
    bos: int
    normalizer: Normalizer
    casing: Casing = False

    def __post_init__(self) -> None:
        if len(self.names) > MAX_PIECES:
            raise TokenizerError(f"tokenizer has {len(self.names)} pieces; at most {MAX_PIECES} are possible")
        if len(self.names) != len(self.types):
            raise TokenizerError(
                f"tokenizer has {len(self.names)} pieces but {len(self.types)} types; it is damaged"
            )
        if not 0 <= self.bos < len(self.names) or self.types[self.bos] != CONTROL:
            raise TokenizerError(
                f"piece {self.bos} cannot start a document; a model with a control piece <s> is needed"
            )
        if self.types.count(BYTE) != 256:
            raise TokenizerError("model has no byte pieces; train it with byte_fallback=True")
        if self.types.count(UNKNOWN) != 1 or not set(self.types) <= set(range(NORMAL, BYTE + 1)):
            raise TokenizerError("model needs one unknown piece and no types but 1..6; it is damaged")
        if self.find(SPACE) is None:
            raise TokenizerError(
                "model has no piece for the space (U+2581), so spaces would be counted as three bytes"
            )
        if self.casing and not has_markers(self.names, self.types):
            raise TokenizerError(
                "model with casing has not each of U+E001 … U+E004 as one user-defined piece; it is damaged"
            )

    def find(self, name: str) -> int | None:
        """The id of the NORMAL piece `name`."""
        ids = (i for i, other in enumerate(self.names) if other == name and self.types[i] == NORMAL)
        return next(ids, None)

    def model(self) -> bytes:
        """A ModelProto message that SentencePiece can load."""
        messages, merges, value = [], 0, 0
        for name, kind in zip(self.names, self.types, strict=True):
            encoded, score = name.encode(), 0.0
            if kind == BYTE:
                encoded, value = f"<0x{value:02X}>".encode(), value + 1
            elif kind == NORMAL:
                score, merges = float(-merges), merges + 1
            fields = (
                bytes_field(1, encoded) + fixed32_field(2, struct.pack("<f", score)) + varint_field(3, kind)
            )
            messages.append(bytes_field(1, fields))
        trainer = (
            varint_field(_MODEL_TYPE, _BPE)
            + varint_field(4, len(self.names))
            + varint_field(_BYTE_FALLBACK, 1)
        )
        return b"".join(messages) + bytes_field(2, trainer) + bytes_field(3, self.normalizer.message())


class SentencePieceTokenizer(TableTokenizer):
    """Text to ids by the merges of `pieces`."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.vocabulary = len(pieces.names)
        self.bos = pieces.bos
        self.kind = KINDS[pieces.casing]
        self.markers = tuple(map(pieces.names.index, MARKERS)) if pieces.casing else ()
        self.lossless = pieces.normalizer.exact and pieces.types.count(USER_DEFINED) == len(self.markers)
        self.token_bytes = tuple(_bytes_by_id(pieces))
        self._spelled = SPACE + MARKERS if pieces.casing else SPACE
        self._byte_ids = np.flatnonzero(np.frombuffer(pieces.types, dtype=np.uint8) == BYTE).astype(np.int32)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=pieces.model())
        except (RuntimeError, ValueError) as error:
            if isinstance(error, TokenizerError):
                raise
            raise TokenizerError(f"SentencePiece refuses this tokenizer: {_first_line(error)}") from error
        self._words = self._word_ids() if self.lossless else None

    def encode(self, text: str | bytes) -> np.ndarray:
        """int32 (tokens,), without bos. A lossy model reads invalid UTF-8 as U+FFFD."""
        if not self.lossless:
            return self._encode_valid(as_bytes(text).decode("utf-8", "replace"))
        parts = [
            self._encode_valid(part)
            if isinstance(part, str)
            else self._byte_ids[np.frombuffer(part, dtype=np.uint8)]
            for part in split_valid(text, also=self._spelled)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes that `ids` stand for; misplaced markers act as `CapsStream` says."""
        if not self.markers:
            return super().decode(ids)
        return _latin_bytes(CapsStream(self.pieces.casing).feed("".join(look_up(self._characters, ids))))

    def decoder(self) -> Callable[[int], bytes]:
        """The bytes of one id after another; their letters' case depends on the ids before."""
        if not self.markers:
            return super().decoder()
        stream = CapsStream(self.pieces.casing)
        return lambda token: _latin_bytes(stream.feed(self._characters[token]))

    @functools.cached_property
    def _characters(self) -> tuple[str, ...]:
        """Each id's bytes as the characters U+0000..U+00FF, and the markers, which are none of these."""
        characters = [piece.decode("latin-1") or _NOTHING for piece in self.token_bytes]
        for marker in self.markers:
            characters[marker] = self.pieces.names[marker]
        return tuple(characters)

    def _encode_valid(self, text: str) -> np.ndarray:
        if self._words is not None:
            return self._words.of(text)
        return np.array(self._ids(text), dtype=np.int32)

    def _ids(self, text: str) -> list[int]:
        return self._processor.encode(lossless_caps(text, self.pieces.casing), out_type=int)

    def _word_ids(self) -> WordIds | None:
        """Where no merge reaches beyond a word. Capitals are marked in each word alone, too."""
        merged = [
            name.replace(SPACE, " ")
            for name, kind in zip(self.pieces.names, self.pieces.types, strict=True)
            if kind in (NORMAL, UNUSED)
        ]
        words = words_within(merged)
        if words is None or any(SEPARATOR in name for name in merged):
            return None
        return WordIds(words, self._ids, separator=int(self._byte_ids[ord(SEPARATOR)]))

    def table(self) -> bytes:
        pieces = self.pieces
        names = tuple(name.encode() for name in pieces.names)
        normalizer = tree.to_json(pieces.normalizer)
        if not pieces.normalizer.library:
            # Tables that depend on no version stay the same bytes as before it was told.
            del normalizer["library"]
        settings = {"kind": self.kind, "bos": pieces.bos, "normalizer": normalizer}
        return pack_table(settings, {"types": pieces.types, **pack_pieces(names)})


def has_markers(names: Sequence[str], types: bytes) -> bool:
    """Whether each of the markers of capitals is exactly one piece, which is user-defined."""
    return all(names.count(marker) == 1 and types[names.index(marker)] == USER_DEFINED for marker in MARKERS)


def pieces_from_table(settings: dict[str, Any], columns: dict[str, bytes]) -> Pieces:
    """The pieces of a saved table of one of `KINDS`; `TokenizerError` if anything in it is malformed."""
    casing = next(casing for casing, kind in KINDS.items() if kind == settings.get("kind"))
    try:
        names = tuple(name.decode() for name in unpack_pieces(columns))
    except UnicodeDecodeError as error:
        raise TokenizerError("tokenizer table has a piece that is not UTF-8; it is damaged") from error
    try:
        normalizer = tree.from_json(Normalizer, settings.get("normalizer"), "normalizer")
        bos = tree.from_json(int, settings.get("bos"), "bos")
    except RecipeError as error:
        raise TokenizerError(f"tokenizer table is damaged: {error}") from error
    return Pieces(names, columns.get("types", b""), bos, normalizer, casing)


def pieces_from_model(model: bytes, source: str) -> Pieces:
    """The pieces of a SentencePiece `.model` file. `source` names it in errors.

    A model with all four markers of capitals as user-defined pieces was trained on text with marked capitals.
    """
    names, types, scores = [], bytearray(), []
    messages: dict[int, bytes] = {}
    for number, message in read_fields(model):
        if not isinstance(message, bytes):
            raise TokenizerError(f"{source} is no SentencePiece model")
        if number != 1:
            messages[number] = message
            continue
        piece: dict[int, Any] = dict(read_fields(message))
        kind = piece.get(3, NORMAL)
        names.append(piece.get(1, b""))
        types.append(kind if kind <= BYTE else 0)
        if kind == NORMAL:
            scores.append(struct.unpack("<f", piece.get(2, bytes(4)))[0])
    trainer: dict[int, Any] = dict(read_fields(messages.get(2, b"")))
    if trainer.get(_MODEL_TYPE, 1) != _BPE or trainer.get(_WHITESPACE_SUFFIX, 0):
        raise TokenizerError(
            f"{source} is no BPE model; train it with model_type='bpe' and whitespace as prefix"
        )
    if any(later >= earlier for earlier, later in itertools.pairwise(scores)):
        raise TokenizerError(f"{source}: the pieces are not in the order of their scores")
    byte_names = [name for name, kind in zip(names, types, strict=True) if kind == BYTE]
    if byte_names and byte_names != [b"<0x%02X>" % value for value in range(256)]:
        raise TokenizerError(f"{source}: the byte pieces are not <0x00> … <0xFF> in this order")
    starts = [i for i, name in enumerate(names) if name == b"<s>" and types[i] == CONTROL]
    normalizer = read_normalizer(messages.get(3, b""), model, source)
    decoded = tuple("" if kind == BYTE else name.decode() for name, kind in zip(names, types, strict=True))
    casing = has_markers(decoded, bytes(types))
    return Pieces(decoded, bytes(types), starts[0] if starts else -1, normalizer, casing)


def load_model(path: Path) -> SentencePieceTokenizer:
    """The tokenizer of a SentencePiece `.model` file (BPE with byte fallback and <s>)."""
    model = path.read_bytes()
    try:
        return SentencePieceTokenizer(pieces_from_model(model, str(path)))
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} has a piece that is not UTF-8; it is damaged") from error


def _bytes_by_id(pieces: Pieces) -> Sequence[bytes]:
    value, out = 0, []
    for name, kind in zip(pieces.names, pieces.types, strict=True):
        if kind == BYTE:
            out.append(bytes([value]))
            value += 1
        elif kind in (NORMAL, USER_DEFINED) and not (pieces.casing and name in MARKERS):
            out.append(name.replace(SPACE, " ").encode())
        else:
            out.append(b"")
    return out


def _latin_bytes(characters: str) -> bytes:
    return characters.encode("latin-1", "ignore")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
