"""The JSON header of an artifact: what is in the file, read without trusting it.

R rows, C columns. Streams follow the header without gaps in the order of the table, so a header holds
lengths only and no two streams can overlap.
"""

import json
import math
import re
from dataclasses import astuple, dataclass
from typing import Any

from bytegolf.compression.grid import MAX_BITS
from bytegolf.compression.low_rank import MAX_FACTOR_BITS, MAX_RANK, MIN_FACTOR_BITS, groups_of
from bytegolf.errors import ArtifactError

#: Bounds on what a file may ask for. A file of the 16 MB challenge stays far below all of them.
MAX_FILE_BYTES = 256 << 20
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_DIMENSIONS = 4
MAX_ROW = 1 << 20
#: Bytes of all tensors once unpacked (one an integer, one to four a float). Reading takes about twice that.
MAX_UNPACKED_BYTES = 256 << 20
#: What a file may unpack to for its own size: so many bytes, and so many for each of its bytes. Streams that
#: say nothing decode to zeros for as long as one likes, so without it a hundred bytes could take minutes.
FREE_UNPACKED_BYTES, UNPACKED_RATIO = 16 << 20, 16

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,200}")
_ROLE = re.compile(r"[a-z_]{1,40}")
FLOAT8 = "float8_e4m3"
#: Integers that stand for a matrix, or for one whose columns were rotated.
INTS, ROTATED = "ints", "rotated"
FLOAT_BYTES = {FLOAT8: 1, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Factors:
    """The form of a low-rank correction (see `compression.low_rank`)."""

    rank: int
    a_bits: int
    b_bits: int
    group: int

    def scales(self, columns: int) -> int:
        """How many scales there are: that of A, and those of B's groups."""
        return 1 + groups_of(self.rank * columns, self.group)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the table. `bits` is 0 for floats, whose `lengths` are (floats,).

    A matrix of 1 to 8 bits has the lengths (integers, scales) and no float `kind` of its own; `group` columns
    of a row have one scale, or the whole row if it is 0. Its kind says whether it is `rotated`. With a
    `correction` the lengths are (integers, scales, integers of A, integers of B, scales of A and B).
    """

    name: str
    role: str
    shape: tuple[int, ...]
    bits: int
    kind: str
    lengths: tuple[int, ...]
    group: int = 0
    correction: Factors | None = None

    @property
    def scales_shape(self) -> tuple[int, ...]:
        """(R,), or (R, G) with groups, for a matrix of integers."""
        rows, columns = self.shape
        return (rows, -(-columns // self.group)) if self.group else (rows,)

    @property
    def unpacked_bytes(self) -> int:
        """Memory that the tensor takes once read."""
        count = math.prod(self.shape)
        if not self.bits:
            return count * FLOAT_BYTES[self.kind]
        factors = self.correction
        thin = factors.rank * sum(self.shape) + 2 * factors.scales(self.shape[1]) if factors else 0
        return count + 2 * math.prod(self.scales_shape) + thin


@dataclass(frozen=True, slots=True)
class Header:
    """Plain records of the file, the length of its tokenizer, and its tensors in order."""

    recipe: dict[str, Any]
    training: dict[str, Any]
    tokenizer_length: int
    entries: tuple[Entry, ...]

    @property
    def unpacked_bytes(self) -> int:
        """Memory that all tensors take once read."""
        return sum(entry.unpacked_bytes for entry in self.entries)

    @property
    def body_bytes(self) -> int:
        """Bytes of all streams that follow the header."""
        return self.tokenizer_length + sum(sum(entry.lengths) for entry in self.entries)


def check_proportion(header: Header, file_bytes: int) -> None:
    """Raises `ArtifactError` if the tensors are too large for a file of this size."""
    allowed = FREE_UNPACKED_BYTES + UNPACKED_RATIO * file_bytes
    if header.unpacked_bytes > allowed:
        raise ArtifactError(
            f"{header.unpacked_bytes} bytes of tensors in a file of {file_bytes}; "
            f"at most {allowed} are allowed"
        )


def header_to_bytes(header: Header) -> bytes:
    """The header as JSON. Raises `ArtifactError` if it is too large or holds what JSON cannot."""
    table = [
        [entry.name, entry.role, list(entry.shape), entry.bits, entry.kind, list(entry.lengths)]
        + ([entry.group] if entry.group or entry.correction else [])
        + ([list(astuple(entry.correction))] if entry.correction else [])
        for entry in header.entries
    ]
    data = {
        "recipe": header.recipe,
        "training": header.training,
        "tokenizer": header.tokenizer_length,
        "tensors": table,
    }
    try:
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        encoded = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"the recipe or the training record has no JSON form: {error}") from error
    if len(encoded) > MAX_HEADER_BYTES:
        raise ArtifactError(f"a header of {len(encoded)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    return encoded


def header_from_bytes(data: bytes) -> Header:
    """The checked header. Raises `ArtifactError` for anything that `header_to_bytes` would not write."""
    parsed = _parse(data)
    _expect(isinstance(parsed, dict) and parsed.keys() == {"recipe", "training", "tokenizer", "tensors"})
    _expect(isinstance(parsed["recipe"], dict) and isinstance(parsed["training"], dict))
    table = parsed["tensors"]
    _expect(isinstance(table, list))
    if len(table) > MAX_TENSORS:
        raise ArtifactError(f"{len(table)} tensors; at most {MAX_TENSORS} are allowed")
    entries = tuple(_entry(row) for row in table)
    names = {entry.name for entry in entries}
    if len(names) != len(entries):
        raise ArtifactError("two tensors have the same name")
    header = Header(parsed["recipe"], parsed["training"], _length(parsed["tokenizer"]), entries)
    if header.unpacked_bytes > MAX_UNPACKED_BYTES:
        raise ArtifactError(
            f"{header.unpacked_bytes} bytes of tensors; at most {MAX_UNPACKED_BYTES} are allowed"
        )
    return header


def _parse(data: bytes) -> Any:
    if len(data) > MAX_HEADER_BYTES:
        raise ArtifactError(f"a header of {len(data)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    try:
        text = data.decode()
        parsed = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        # Escaped lone surrogates parse, but no text with them can be printed or saved again.
        json.dumps(parsed, ensure_ascii=False).encode()
    except ArtifactError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArtifactError("the header is not valid JSON") from error
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ArtifactError("the header has an object with the same key twice")
    return result


def _no_constant(name: str) -> float:
    raise ArtifactError(f"the header holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ArtifactError("the header holds a number too large for a float")
    return value


def _entry(row: Any) -> Entry:
    _expect(isinstance(row, list) and 6 <= len(row) <= 8)
    name, role, shape, bits, kind, lengths, *extra = row
    _expect(isinstance(name, str) and _NAME.fullmatch(name) is not None)
    _expect(isinstance(role, str) and _ROLE.fullmatch(role) is not None)
    _expect(isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS and isinstance(lengths, list))
    shape = tuple(_length(size) for size in shape)
    if math.prod(shape) == 0:
        raise ArtifactError(f"tensor {name} has shape {shape} and so no values")
    _expect(type(bits) is int and 0 <= bits <= MAX_BITS)
    group, correction = 0, None
    if bits:
        _expect(len(shape) == 2 and shape[1] <= MAX_ROW and kind in (INTS, ROTATED))
        if extra:
            group = _length(extra[0])
            _expect((len(extra) == 2 and group == 0) or 1 <= group <= shape[1])
        if len(extra) == 2:
            correction = _factors(extra[1], shape)
        _expect(len(lengths) == (5 if correction else 2))
    else:
        _expect(isinstance(kind, str) and kind in FLOAT_BYTES and len(lengths) == 1 and not extra)
        # They go through the coder of integers, and so are rows of no other length.
        _expect(kind != FLOAT8 or not shape or shape[-1] <= MAX_ROW)
    lengths = tuple(_length(length) for length in lengths)
    return Entry(name, role, shape, bits, kind, lengths, group, correction)


def _factors(row: Any, shape: tuple[int, ...]) -> Factors:
    _expect(isinstance(row, list) and len(row) == 4)
    rank, a_bits, b_bits, group = (_length(value) for value in row)
    _expect(1 <= rank <= min(MAX_RANK, *shape) and 1 <= group <= rank * shape[1])
    _expect(all(MIN_FACTOR_BITS <= bits <= MAX_FACTOR_BITS for bits in (a_bits, b_bits)))
    return Factors(rank, a_bits, b_bits, group)


def _length(value: Any) -> int:
    _expect(type(value) is int and 0 <= value <= MAX_UNPACKED_BYTES)
    return value


def _expect(condition: bool) -> None:
    if not condition:
        raise ArtifactError("the header describes no artifact of this version")
