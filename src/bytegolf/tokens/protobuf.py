"""The wire format of protocol buffers, as far as a SentencePiece model needs it.

A message is a sequence of (field number << 3 | wire type) keys, each followed by its value: a varint (0),
eight bytes (1), a length and that many bytes (2), or four bytes (5).
"""

from collections.abc import Iterator

from bytegolf.errors import TokenizerError


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) pairs in order; varints as unsigned integers, everything else as bytes."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _read_varint(message, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _read_varint(message, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise TokenizerError(f"model file has wire type {wire}; it is damaged or no SentencePiece model")
        if position + length > len(message):
            raise TokenizerError("model file is cut short or no SentencePiece model")
        yield number, message[position : position + length]
        position += length


def varint_field(number: int, value: int) -> bytes:
    """A field that holds an integer; negative ones as 64-bit two's complement."""
    return _varint(number << 3) + _varint(value % (1 << 64))


def bytes_field(number: int, value: bytes) -> bytes:
    """A field that holds bytes, a string or a message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def fixed32_field(number: int, value: bytes) -> bytes:
    """A field that holds four bytes, such as a float."""
    assert len(value) == 4
    return _varint(number << 3 | 5) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise TokenizerError("model file is cut short or no SentencePiece model")
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise TokenizerError("model file has an endless integer; it is damaged or no SentencePiece model")
