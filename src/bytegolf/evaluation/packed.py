"""The packed file: what `evaluation.codec` needs to restore a text with its artifact, and the coded blocks.

    magic (4) · version (1) · artifact (8) · text's SHA-256 (8) · CRC-32 of the header (4) · length of the
    header (2) · header · blocks

The header holds, as LEB128 numbers: bytes of text, tokens, streams, steps in a block, window length, stride,
whether the model learns (0 or 1), threads; then the names of precision and machine. A block is the length of
its words in bytes (4), the CRC-32 of its ids and words (4) and the words. Numbers are little-endian.
"""

import zlib
from dataclasses import dataclass, replace

from bytegolf.errors import PackedError

MAGIC = b"\x89BP\n"
VERSION = 1
#: A packed file longer than this is refused, so is a text that claims more.
MAX_FILE_BYTES = 1 << 32
#: No token stands for nothing, so a text has at most as many tokens as bytes; and streams, as tokens.
MAX_TEXT_BYTES = 1 << 36
#: Even a certain token costs 2e-5 bits, because every other id keeps its chance; more tokens than this for
#: each byte of the file are a lie. It bounds what a decoder reserves.
MAX_TOKENS_A_BYTE = 1 << 19
#: A block's checksum is the first thing that can show a difference between machines.
MAX_BLOCK_TOKENS = 1 << 18
MAX_WINDOW = 1 << 24
_DIGEST = 8
_PREFIX = len(MAGIC) + 1 + 2 * _DIGEST + 4 + 2
_BLOCK_PREFIX = 8


@dataclass(frozen=True)
class Layout:
    """How a text is cut and read: everything that decides which probabilities the coder sees.

    tokens are cut into `streams` spans, equal but for one token, coded side by side in windows of `length`
    that advance by `stride`; a block is `block_steps` steps of all streams. adaptive: the model learns from
    what is coded. precision names the type of the activations, threads those of the CPU, machine what
    computed it.
    """

    text_bytes: int
    tokens: int
    streams: int
    block_steps: int
    length: int
    stride: int
    adaptive: bool
    threads: int
    precision: str
    machine: str

    @property
    def steps(self) -> int:
        """Tokens of the longest stream."""
        return -(-self.tokens // self.streams) if self.streams else 0

    @property
    def blocks(self) -> int:
        return -(-self.steps // self.block_steps) if self.steps else 0

    @property
    def storable(self) -> bool:
        """Whether a packed file may have this layout: the writer's rule and the reader's."""
        return (
            self.tokens <= self.text_bytes <= MAX_TEXT_BYTES
            and self.streams <= min(self.tokens, MAX_BLOCK_TOKENS)
            and (self.streams > 0) == (self.tokens > 0)
            and 1 <= self.stride <= self.length <= MAX_WINDOW
            and 1 <= self.block_steps <= max(1, MAX_BLOCK_TOKENS // max(1, self.streams))
            and 1 <= self.threads <= 1 << 16
        )

    def with_streams(self, streams: int) -> "Layout":
        """The same text and windows in another number of streams, to be scored; not a layout to pack."""
        return replace(self, streams=min(streams, self.tokens))

    def stream_tokens(self, stream: int) -> int:
        """Tokens of one stream; the first ones may have one more."""
        return self.tokens // self.streams + (stream < self.tokens % self.streams)

    def active(self, step: int) -> int:
        """How many streams have a token at this step; they are the first ones."""
        return self.streams if step < self.tokens // self.streams else self.tokens % self.streams

    def tokens_before(self, step: int) -> int:
        """How many tokens are coded before this step."""
        return min(step * self.streams, self.tokens)


@dataclass(frozen=True)
class Block:
    """words: what the range coder wrote. check: CRC-32 of the ids as int32, step by step, then of words."""

    words: bytes
    check: int


@dataclass(frozen=True)
class Packed:
    """A packed text. artifact: the first 8 bytes of the artifact's SHA-256; digest: of the text's."""

    layout: Layout
    artifact: bytes
    digest: bytes
    blocks: tuple[Block, ...]


def packed_to_bytes(packed: Packed) -> bytes:
    """The file of a packed text."""
    layout = packed.layout
    numbers = (
        layout.text_bytes,
        layout.tokens,
        layout.streams,
        layout.block_steps,
        layout.length,
        layout.stride,
        int(layout.adaptive),
        layout.threads,
    )
    names = [layout.precision.encode()[:255], layout.machine.encode()[:255]]
    header = b"".join(_leb128(number) for number in numbers)
    header += b"".join(bytes([len(name)]) + name for name in names)
    prefix = [
        MAGIC,
        bytes([VERSION]),
        packed.artifact,
        packed.digest,
        zlib.crc32(header).to_bytes(4, "little"),
        len(header).to_bytes(2, "little"),
    ]
    blocks = [
        len(block.words).to_bytes(4, "little") + block.check.to_bytes(4, "little") + block.words
        for block in packed.blocks
    ]
    return b"".join([*prefix, header, *blocks])


def read_packed(data: bytes) -> Packed:
    """What a packed file holds. Raises `PackedError` with one line for anything else.

    Takes no more memory than a copy of `data`: lengths are compared with what is there before they are used.
    """
    if len(data) > MAX_FILE_BYTES:
        raise PackedError(f"larger than the {MAX_FILE_BYTES} bytes a packed file may have")
    if len(data) < _PREFIX or not data.startswith(MAGIC):
        raise PackedError("not a packed file, or cut short at its very start; give a file that pack wrote")
    at = len(MAGIC)
    if data[at] != VERSION:
        raise PackedError(f"packed file of version {data[at]}; this program reads version {VERSION}")
    artifact, digest = data[at + 1 : at + 1 + _DIGEST], data[at + 1 + _DIGEST : at + 1 + 2 * _DIGEST]
    check = int.from_bytes(data[_PREFIX - 6 : _PREFIX - 2], "little")
    stop = _PREFIX + int.from_bytes(data[_PREFIX - 2 : _PREFIX], "little")
    header = data[_PREFIX:stop]
    if stop > len(data) or zlib.crc32(header) != check:
        raise PackedError("the header is damaged or cut short; copy the file again")
    layout = _read_layout(header)
    if layout.tokens > MAX_TOKENS_A_BYTE * len(data):
        raise PackedError(f"{len(data)} bytes cannot hold {layout.tokens} tokens; the file is damaged")
    blocks = []
    for number in range(layout.blocks):
        size = int.from_bytes(data[stop : stop + 4], "little")
        first = stop + _BLOCK_PREFIX
        if first + size > len(data):
            raise PackedError(f"cut short in block {number + 1} of {layout.blocks}; copy the file again")
        blocks.append(Block(data[first : first + size], int.from_bytes(data[stop + 4 : first], "little")))
        stop = first + size
    if stop != len(data):
        raise PackedError(f"{len(data) - stop} bytes follow the last block; copy the file again")
    return Packed(layout, artifact, digest, tuple(blocks))


def _read_layout(header: bytes) -> Layout:
    numbers, at = [], 0
    for _ in range(8):
        number, at = _read_leb128(header, at)
        numbers.append(number)
    names = []
    for _ in range(2):
        size = header[at] if at < len(header) else 0
        name = header[at + 1 : at + 1 + size]
        if at >= len(header) or len(name) != size or not name.isascii():
            raise PackedError("the header names no precision or machine; the file is damaged")
        names.append(name.decode("ascii"))
        at += 1 + size
    text_bytes, tokens, streams, block_steps, length, stride, adaptive, threads = numbers
    precision, machine = names
    layout = Layout(
        text_bytes, tokens, streams, block_steps, length, stride, bool(adaptive), threads, precision, machine
    )
    if at != len(header) or adaptive > 1 or not layout.storable:
        raise PackedError("the header's numbers contradict each other; the file is damaged")
    return layout


def _leb128(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _read_leb128(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(6):
        if at + place >= len(data):
            break
        byte = data[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise PackedError("a number in the header has no end; the file is damaged")
