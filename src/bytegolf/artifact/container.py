"""The artifact: one file with recipe, tokenizer and coded weights, safe to open whoever wrote it.

    magic (4) · version (1) · header length (4) · its length unpacked (4) · CRC-32 of the decoded weights (4)
    · header (JSON, brotli) · tokenizer · streams of each tensor in the header's order
    · SHA-256 of all that precedes (32)

Numbers are little-endian. Reading never executes or unpickles anything. Every length is checked before
memory is taken for it; the limits are the MAX constants of `artifact.header`.
"""

import hashlib
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bytegolf.artifact import account, coding, compressors
from bytegolf.artifact.account import Account
from bytegolf.artifact.corrections import (
    correction_arrays,
    decode_correction,
    encode_correction,
    factors_of,
)
from bytegolf.artifact.header import (
    FLOAT8,
    INTS,
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    ROTATED,
    Entry,
    Header,
    check_proportion,
    header_from_bytes,
    header_to_bytes,
)
from bytegolf.compression.grid import MAX_BITS, Quantized, limit_of
from bytegolf.errors import ArtifactError
from bytegolf.files import atomic_write
from bytegolf.model.roles import Role

MAGIC = b"\x89BG\n"
VERSION = 3
#: The oldest version that is still read. Version 2 had no rotated matrices and no corrections; version 1
#: also had fewer codings, no groups and no float8.
OLDEST_VERSION = 1
_PREFIX = len(MAGIC) + 1 + 4 + 4 + 4
_CHECKSUM = 32


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What an artifact holds: the resolved recipe and the record of its training as plain data, the
    tokenizer's own bytes, and every tensor with its role, either as integers with scales or as floats.
    """

    recipe: dict[str, Any]
    tokenizer: bytes
    tensors: dict[str, Quantized | Tensor]
    roles: dict[str, str]
    training: dict[str, Any]


def write_artifact(path: Path, contents: Contents) -> Account:
    """Writes `contents` to `path`, whole or not at all, and returns its bytes by part.

    Tensors of e4m3 floats stay what they are. Other floats are stored in float16, or in float32 if one of
    their values lies beyond float16's range.
    Raises `ArtifactError` for tensors that cannot be stored: values that are not finite, unknown shapes.
    """
    data, parts = pack(contents)
    atomic_write(path, data)
    return parts


def read_artifact(path: Path) -> Contents:
    """The contents of the artifact at `path`.

    Raises `ArtifactError` with one line for a file that is missing, truncated, changed, oversized, of another
    version, or made to harm.
    """
    try:
        with path.open("rb") as file:
            # `read` takes the memory it is asked for before it knows how much there is.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, MAX_FILE_BYTES) + 1)
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}); give the path of an artifact"
        ) from error
    try:
        return unpack(data)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}; copy or compress the model again") from error


#: A tensor by its name as it was coded: itself, its line in the header, and its streams.
Coded = dict[str, tuple[Quantized | Tensor, Entry, list[bytes]]]


def pack(contents: Contents, known: Coded | None = None) -> tuple[bytes, Account]:
    """The bytes of an artifact and their account (see `write_artifact`).

    With `known`, tensors that were coded into it by an earlier call, the same objects, are not coded again.
    """
    known = {} if known is None else known
    if contents.tensors.keys() != contents.roles.keys():
        odd = sorted(contents.tensors.keys() ^ contents.roles.keys())
        raise ArtifactError(f"tensors and roles differ in {', '.join(odd[:5])}; give every tensor one role")
    entries: list[Entry] = []
    streams: list[bytes] = []
    check = 0
    for name, tensor in contents.tensors.items():
        role = str(contents.roles[name])
        if name not in known or known[name][0] is not tensor or known[name][1].role != role:
            known[name] = tensor, *_pack_tensor(name, role, tensor)
        _, entry, coded = known[name]
        check = _crc(tensor, check)
        entries.append(entry)
        streams.extend(coded)
    header = Header(contents.recipe, contents.training, len(contents.tokenizer), tuple(entries))
    plain = header_to_bytes(header)
    # What was written must be readable: the reader's own checks hold names, shapes and totals.
    header_from_bytes(plain)
    packed = compressors.compress(plain)
    prefix = MAGIC + bytes([VERSION])
    prefix += b"".join(number.to_bytes(4, "little") for number in (len(packed), len(plain), check))
    body = b"".join([prefix, packed, contents.tokenizer, *streams])
    data = body + hashlib.sha256(body).digest()
    if len(data) > MAX_FILE_BYTES:
        raise ArtifactError(f"{len(data)} bytes; an artifact may have {MAX_FILE_BYTES}")
    check_proportion(header, len(data))
    return data, _account(_PREFIX + len(packed), header, len(data))


def unpack(data: bytes) -> Contents:
    """The contents of an artifact's bytes (see `read_artifact`)."""
    if len(data) > MAX_FILE_BYTES:
        raise ArtifactError(f"larger than the {MAX_FILE_BYTES} bytes an artifact may have")
    if len(data) < _PREFIX + _CHECKSUM or not data.startswith(MAGIC):
        raise ArtifactError("not a bytegolf artifact, or cut short at its very start")
    if not OLDEST_VERSION <= data[len(MAGIC)] <= VERSION:
        raise ArtifactError(
            f"artifact version {data[len(MAGIC)]}; this program reads {OLDEST_VERSION} to {VERSION}"
        )
    body = memoryview(data)[:-_CHECKSUM]
    if hashlib.sha256(body).digest() != data[-_CHECKSUM:]:
        raise ArtifactError("the checksum does not match: the file is cut short or was changed")
    packed_length, plain_length, check = (
        int.from_bytes(data[start : start + 4], "little") for start in range(len(MAGIC) + 1, _PREFIX, 4)
    )
    if plain_length > MAX_HEADER_BYTES or packed_length > len(body) - _PREFIX:
        raise ArtifactError("the header is longer than allowed or than the file")
    start = _PREFIX + packed_length
    header = header_from_bytes(compressors.decompress(bytes(body[_PREFIX:start]), plain_length))
    check_proportion(header, len(data))
    if start + header.body_bytes != len(body):
        raise ArtifactError(f"{len(body) - start} bytes of streams where {header.body_bytes} belong")
    stop = start + header.tokenizer_length
    tokenizer = bytes(body[start:stop])
    tensors = _read_tensors(header, body[stop:], check)
    roles = {entry.name: entry.role for entry in header.entries}
    return Contents(header.recipe, tokenizer, tensors, roles, header.training)


def _read_tensors(header: Header, streams: memoryview, check: int) -> dict[str, Quantized | Tensor]:
    tensors: dict[str, Quantized | Tensor] = {}
    position = 0
    found = 0
    for entry in header.entries:
        parts = []
        for length in entry.lengths:
            parts.append(bytes(streams[position : position + length]))
            position += length
        try:
            tensors[entry.name] = tensor = _unpack_tensor(entry, parts)
        except ArtifactError as error:
            raise ArtifactError(f"tensor {entry.name}: {error}") from error
        found = _crc(tensor, found)
    if found != check:
        # A range decoder that computes other probabilities than the encoder did yields noise, not an error.
        raise ArtifactError("the weights decode to other values than were stored")
    return tensors


def _unpack_tensor(entry: Entry, parts: list[bytes]) -> Quantized | Tensor:
    if entry.bits:
        rows, columns = entry.shape
        ints_RC = coding.decode_ints(parts[0], (rows, columns), limit_of(entry.bits))
        if entry.bits == 1 and not ints_RC.all():
            raise ArtifactError("a binary matrix holds zeros")
        scales = coding.decode_scales(parts[1], entry.scales_shape)
        group = entry.group or None
        ints, scale = torch.from_numpy(ints_RC.copy()), torch.from_numpy(scales)
        factors = entry.correction
        correction = decode_correction(parts[2:], factors, (rows, columns)) if factors else None
        return Quantized(ints, scale, entry.bits, group, entry.kind == ROTATED, correction)
    if entry.kind == FLOAT8:
        patterns = coding.decode_float8(parts[0], entry.shape)
        return torch.from_numpy(patterns).view(torch.float8_e4m3fn)
    kind = np.float16 if entry.kind == "float16" else np.float32
    return torch.from_numpy(coding.decode_floats(parts[0], entry.shape, kind))


def _pack_tensor(name: str, role: str, tensor: Quantized | Tensor) -> tuple[Entry, list[bytes]]:
    if isinstance(tensor, Quantized):
        return _pack_matrix(name, role, tensor)
    if tensor.dtype == torch.float8_e4m3fn:
        return _pack_float8(name, role, tensor)
    return _pack_floats(name, role, tensor)


def _pack_matrix(name: str, role: str, matrix: Quantized) -> tuple[Entry, list[bytes]]:
    ints_RC, scales = _int8_array(matrix.ints), matrix.scales.detach().cpu().numpy()
    if not 1 <= matrix.bits <= MAX_BITS or ints_RC.ndim != 2 or ints_RC.size == 0:
        raise ArtifactError(f"tensor {name} has {matrix.bits} bits and shape {ints_RC.shape}; see Quantized")
    limit = matrix.limit
    if int(ints_RC.max()) > limit or int(ints_RC.min()) < -limit:
        raise ArtifactError(f"tensor {name} has integers beyond ±{limit}, the limit of {matrix.bits} bits")
    if matrix.bits == 1 and not ints_RC.all():
        raise ArtifactError(f"tensor {name} has a single bit and zeros; its integers may be -1 and 1")
    group = 0 if matrix.group is None else matrix.group
    kind = ROTATED if matrix.rotated else INTS
    entry = Entry(name, role, ints_RC.shape, matrix.bits, kind, (), group)
    if scales.shape != entry.scales_shape or scales.dtype != np.float16:
        raise ArtifactError(
            f"tensor {name} has scales of shape {scales.shape}, {scales.dtype}; "
            f"give float16 of shape {entry.scales_shape}"
        )
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise ArtifactError(f"tensor {name} has a scale that is not a positive number")
    coded = [coding.encode_ints(ints_RC, limit), coding.encode_scales(np.ascontiguousarray(scales))]
    if matrix.correction is not None:
        coded += encode_correction(matrix.correction)
        entry = replace(entry, correction=factors_of(matrix.correction))
    return replace(entry, lengths=tuple(map(len, coded))), coded


def _pack_float8(name: str, role: str, tensor: Tensor) -> tuple[Entry, list[bytes]]:
    if not bool(torch.isfinite(tensor.to(torch.float32)).all()):
        raise ArtifactError(f"tensor {name} holds NaN; use an earlier checkpoint")
    coded = coding.encode_float8(_patterns(tensor)) if tensor.numel() else b""
    return Entry(name, role, tuple(tensor.shape), 0, FLOAT8, (len(coded),)), [coded]


def _pack_floats(name: str, role: str, tensor: Tensor) -> tuple[Entry, list[bytes]]:
    values = tensor.detach().to(torch.float32).cpu()
    if not bool(torch.isfinite(values).all()):
        raise ArtifactError(f"tensor {name} holds NaN or infinity; use an earlier checkpoint")
    half = values.to(torch.float16)
    kind, array = ("float16", half) if bool(torch.isfinite(half).all()) else ("float32", values)
    coded = coding.encode_floats(array.numpy())
    return Entry(name, role, tuple(values.shape), 0, kind, (len(coded),)), [coded]


def _crc(tensor: Quantized | Tensor, check: int) -> int:
    """`check` gone on over what was range coded: plain floats are not."""
    if isinstance(tensor, Quantized):
        check = zlib.crc32(_int8_array(tensor.ints).tobytes(), check)
        check = zlib.crc32(tensor.scales.detach().cpu().numpy().tobytes(), check)
        for array in correction_arrays(tensor.correction) if tensor.correction is not None else ():
            check = zlib.crc32(array.tobytes(), check)
        return check
    if tensor.dtype == torch.float8_e4m3fn:
        return zlib.crc32(_patterns(tensor).tobytes(), check)
    return check


def _patterns(tensor: Tensor) -> coding.Bytes:
    return np.ascontiguousarray(tensor.detach().cpu().view(torch.uint8).numpy())


def _int8_array(ints: Tensor) -> coding.Int8s:
    assert ints.dtype == torch.int8
    return np.ascontiguousarray(ints.detach().cpu().numpy())


def _account(header_bytes: int, header: Header, total: int) -> Account:
    sizes = {account.HEADER: header_bytes, account.TOKENIZER: header.tokenizer_length}
    for entry in header.entries:
        floats = account.PASS_THROUGH if entry.role == Role.SCALAR else entry.role
        parts = (entry.role, account.SCALES) if entry.bits else (floats,)
        parts += (account.CORRECTIONS,) * 3 if entry.correction else ()
        for part, length in zip(parts, entry.lengths, strict=True):
            sizes[part] = sizes.get(part, 0) + length
    result = Account((*sizes.items(), (account.CHECKSUM, _CHECKSUM)))
    assert result.total_bytes == total
    return result
