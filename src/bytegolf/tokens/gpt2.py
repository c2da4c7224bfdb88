"""GPT-2's tokenizer: byte-level BPE from its two published files, or from a piece table."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bytegolf.errors import TokenizerError
from bytegolf.tokens.bytes_text import split_valid
from bytegolf.tokens.table import TableTokenizer, pack_pieces, pack_table, unpack_pieces

MERGES_FILE, IDS_FILE = "vocab.bpe", "encoder.json"
_BOS_NAME = "<|endoftext|>"
# How GPT-2 cuts text before merging: contractions; letters, digits or other marks, each with a space in front
# if there is one; spaces.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class Gpt2Tokenizer(TableTokenizer):
    """Pieces in order of merging, the 256 bytes first and bos last; bytes of any kind can be encoded."""

    kind = "gpt2"
    lossless = True

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        ranks = {piece: rank for rank, piece in enumerate(pieces)}
        if len(ranks) != len(pieces) or b"" in ranks:
            raise TokenizerError("GPT-2's pieces are empty or repeated; the table is damaged")
        if not all(len(piece) == 1 for piece in pieces[:256]) or len(pieces) < 256:
            raise TokenizerError("GPT-2's first 256 pieces are not the bytes; the table is damaged")
        self.bos = len(pieces)
        self.vocabulary = len(pieces) + 1
        self.token_bytes: tuple[bytes, ...] = (*pieces, b"")
        self._byte_ids = np.array([ranks[bytes([value])] for value in range(256)], dtype=np.int32)
        self._encoding = _import_tiktoken().Encoding(
            "gpt2", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={_BOS_NAME: self.bos}
        )

    def encode(self, text: str | bytes) -> np.ndarray:
        """int32 (tokens,), without bos; the literal text <|endoftext|> is text like any other."""
        parts = [
            np.array(self._encoding.encode_ordinary(part), dtype=np.int32)
            if isinstance(part, str)
            else self._byte_ids[np.frombuffer(part, dtype=np.uint8)]
            for part in split_valid(text)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)

    def table(self) -> bytes:
        return pack_table({"kind": self.kind}, pack_pieces(self.token_bytes[:-1]))


def gpt2_from_table(columns: dict[str, bytes]) -> Gpt2Tokenizer:
    """The tokenizer of a saved table."""
    return Gpt2Tokenizer(unpack_pieces(columns))


def load_gpt2(folder: Path) -> Gpt2Tokenizer:
    """The tokenizer of a folder with `vocab.bpe` (the merges) and `encoder.json` (the ids)."""
    merges = _read(folder / MERGES_FILE).split("\n")[1:]
    characters = _byte_characters()
    bytes_of = {character: bytes([value]) for character, value in characters.items()}
    pieces = list(bytes_of.values())
    try:
        pieces += [
            b"".join(bytes_of[character] for character in line.replace(" ", "")) for line in merges if line
        ]
        ids: dict[str, Any] = json.loads(_read(folder / IDS_FILE))
        named = {b"".join(bytes_of[c] for c in name): rank for name, rank in ids.items() if name != _BOS_NAME}
    except (KeyError, ValueError, AttributeError) as error:
        raise TokenizerError(f"{folder} holds no GPT-2 tokenizer: {error!r} in its files") from error
    if named != {piece: rank for rank, piece in enumerate(pieces)} or ids.get(_BOS_NAME) != len(pieces):
        raise TokenizerError(f"{folder}: {IDS_FILE} and {MERGES_FILE} do not belong together; get both again")
    return Gpt2Tokenizer(tuple(pieces))


def _byte_characters() -> dict[str, int]:
    """The printable character that stands for each byte in the files, in the order of the ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in set(printable)]
    shown = {chr(value): value for value in printable}
    return shown | {chr(256 + rank): value for rank, value in enumerate(others)}


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8; get it again") from error


def _import_tiktoken() -> Any:
    try:
        import tiktoken
    except ImportError as error:
        raise TokenizerError("GPT-2's tokenizer needs a package: pip install 'bytegolf[gpt2]'") from error
    return tiktoken
