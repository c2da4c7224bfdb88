"""Damage for `fuzz.py`: random changes of bytes and of JSON, drawn from a given generator."""

import copy
import json
from random import Random
from typing import Any

#: Little-endian numbers that overflow what a careless reader computes.
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    *EXTREMES,
    -1,
    -(2**63),
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    True,
    None,
    "",
    "\0",
    "\ud800",
    "../../etc/passwd",
    "/dev/zero",
    "x" * 5000,
    [],
    {},
    [[[[[[[[]]]]]]]],
    {"type": "Model"},
)


def mutate_bytes(data: bytes, other: bytes, random: Random) -> bytes:
    """`data` after one to four changes; `other` is a sound input to splice from."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        random.choice(_BYTE_CHANGES)(changed, other, random)
    return bytes(changed)


def mutate_json(value: Any, random: Random) -> Any:
    """A copy of plain data after one to three changes somewhere in its tree."""
    root = [copy.deepcopy(value)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        place, key = random.choice(_places(root))
        match random.randrange(8):
            case 0 if isinstance(place, dict) or place is not root:
                del place[key]
            case 1 if isinstance(place, list) and place is not root:
                place.extend([place[key]] * random.choice((1, 3, 200)))
            case 2:
                other, other_key = random.choice(_places(root))
                place[key] = copy.deepcopy(other[other_key])
            case 3 if type(place[key]) is int:
                place[key] += random.choice((-1, 1, 255, 256))
            case 4 if isinstance(place, dict):
                place["extra"] = random.choice(_VALUES)
            case 5 if isinstance(place[key], list):
                random.shuffle(place[key])
            case _:
                place[key] = copy.deepcopy(random.choice(_VALUES))
    return root[0]


def mutate_json_text(text: bytes, random: Random) -> bytes:
    """JSON bytes changed as a tree, or now and then as bytes."""
    if random.random() < 0.15:
        return mutate_bytes(text, text, random)
    return json.dumps(mutate_json(json.loads(text), random)).encode()


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], dict | list):
                waiting.append(node[key])
    return found or [(root, 0)]


def _flip_bits(data: bytearray, other: bytes, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8))):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set_byte(data: bytearray, other: bytes, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _truncate(data: bytearray, other: bytes, random: Random) -> None:
    del data[random.randrange(len(data) + 1) :]


def _cut_out(data: bytearray, other: bytes, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    del data[start : start + random.choice((1, 2, 4, 16, 256))]


def _extend(data: bytearray, other: bytes, random: Random) -> None:
    data += random.choice((b"\0", b"\xff" * 4, random.randbytes(16), bytes(data[-8:]), bytes(4096)))


def _splice(data: bytearray, other: bytes, random: Random) -> None:
    start, length = random.randrange(len(other) + 1), random.choice((1, 4, 16, 64, 1024))
    place = random.randrange(len(data) + 1)
    data[place : place + random.choice((0, length))] = other[start : start + length]


def _extreme_number(data: bytearray, other: bytes, random: Random) -> None:
    size = random.choice((1, 2, 4, 8))
    if len(data) >= size:
        # Lengths and counts stand near the front more often than not.
        last = random.choice((len(data), min(len(data), 64)))
        place = random.randrange(max(last - size, 0) + 1)
        number = random.choice(EXTREMES) & (256**size - 1)
        data[place : place + size] = number.to_bytes(size, "little")


_BYTE_CHANGES = (_flip_bits, _flip_bits, _set_byte, _truncate, _cut_out, _extend, _splice, _extreme_number)
