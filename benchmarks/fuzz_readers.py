"""The readers that `fuzz.py` feeds, each with sound inputs, ways to damage them, and a look at what it read.

A reader takes one damaged input and returns, or raises a `BytegolfError`; an AssertionError means that it
returned something wrong.
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import brotli
import numpy as np
import torch
from mutations import EXTREMES, mutate_bytes, mutate_json_text

from bytegolf.artifact import container
from bytegolf.artifact.coding import Method
from bytegolf.artifact.container import Contents, pack, unpack
from bytegolf.artifact.header import header_from_bytes
from bytegolf.artifact.loading import load
from bytegolf.compression.compress import compress_model
from bytegolf.compression.floats import Float8
from bytegolf.compression.grid import AbsMax, Grid, Quantized
from bytegolf.compression.residual import LowRankCorrection, corrected
from bytegolf.compression.storage import Storage
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.errors import BytegolfError
from bytegolf.evaluation.packed import _PREFIX as PACKED_PREFIX
from bytegolf.evaluation.packed import Block as PackedBlock
from bytegolf.evaluation.packed import Layout, Packed, packed_to_bytes, read_packed
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.text.documents import Document
from bytegolf.tokens.cleanliness import check_split
from bytegolf.tokens.shards import open_prepared, prepare
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.table import MAGIC, compress_table, decompress_table
from bytegolf.tokens.tokenizer import (
    ByteTokenizer,
    Tokenizer,
    tokenizer_from_bytes,
    train_sentencepiece,
)
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training
from bytegolf.tree import to_json

MIB = 1 << 20
TEXTS = [
    Document(f"In the beginning {i} was the word, and the word was {i * i} long.\n" * 3, f"d{i}")
    for i in range(30)
]


@dataclass(frozen=True)
class Reader:
    """One function that takes bytes from strangers.

    damage: an input drawn from a generator. read: takes it. An input of n bytes may take
    `memory` + 20 n bytes.
    """

    name: str
    damage: Callable[[Random], bytes]
    read: Callable[[bytes], None]
    memory: int = 64 * MIB


def readers(folder: Path) -> list[Reader]:
    """All of them, with `folder` for the files they need. A new one is one line here."""
    tokenizers = sound_tokenizers()
    artifacts = [sound_artifact(tokenizer) for tokenizer in tokenizers]
    return [
        Reader("artifact", artifact_damage([*artifacts, sound_codings()]), read_artifact_bytes, 128 * MIB),
        Reader("artifact_load", artifact_damage(artifacts), load_from(folder / "load.bg"), 256 * MIB),
        Reader("tokenizer", tokenizer_damage(tokenizers), read_tokenizer),
        Reader("shard", shard_damage(folder / "shards"), read_shard(folder / "mutant.bin")),
        *prepared_readers(folder / "prepared", tokenizers[-1]),
        Reader("packed", packed_damage, read_packed_bytes),
    ]


def bytes_damage(sound: list[bytes], repair: Callable[[bytes], bytes] = bytes) -> Callable[[Random], bytes]:
    """Damage of whole files, with their outer checksum `repair`ed nine times in ten."""

    def damage(random: Random) -> bytes:
        data = mutate_bytes(random.choice(sound), random.choice(sound), random)
        return repair(data) if random.random() < 0.9 else data

    return damage


def sound_tokenizers() -> list[Tokenizer]:
    """Small ones of each kind that a table can hold, without reading any file."""
    return [ByteTokenizer(), train_sentencepiece(TEXTS, 300)]


def sound_artifact(tokenizer: Tokenizer) -> bytes:
    """The bytes of an untrained model's artifact: integers of many bits, ternary, binary, and floats."""
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(32))
    spec = Model(width=16, layers=(layer,), vocabulary=tokenizer.vocabulary)
    torch.manual_seed(0)
    model = spec.build()
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    kinds: tuple[Storage, ...] = (Grid(8), Ternary(5), Binary(7), Float8(), Grid(6), Ternary(64), Grid(5))
    storage = {role: kinds[index % 7] for index, role in enumerate(sorted(set(roles.values())))}
    tensors = compress_model(dict(model.named_parameters()), roles, storage, passthrough_elements=64)
    recipe = {"model": to_json(spec), "training": to_json(Training(budget=Budget(steps=1), length=24))}
    return pack(Contents(recipe, tokenizer.to_bytes(), tensors, roles, {"seed": 1}))[0]


def sound_codings() -> bytes:
    """An artifact of matrices that lead to the codings which those of an untrained model don't lead to."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(3, 24))[random.integers(3, size=200)] + random.normal(size=(200, 24)) / 8
    rows[50:90] = rows[:1] + random.normal(size=(40, 24)) / 40
    noise = random.normal(size=(9, 24))
    few = noise * (random.random((9, 24)) < 0.1)
    tensors: dict[str, Quantized | torch.Tensor] = {
        "rows": Grid(6).quantize(torch.from_numpy(rows)),
        "few": Ternary(24).quantize(torch.from_numpy(few)),
        "three": Ternary(7).quantize(torch.from_numpy(noise)),
        "two": Binary(24).quantize(torch.from_numpy(noise)),
        "alike": Binary(5).quantize(torch.from_numpy(rows)),
        "eighths": Float8().quantize(torch.from_numpy(rows)),
        "vector": torch.linspace(0, 1, 200),
        "turned": Grid(4, rotated=True).quantize(torch.from_numpy(noise)),
        "thin": corrected(
            torch.from_numpy(noise), Grid(3, AbsMax()).quantize(torch.from_numpy(noise)), LowRankCorrection(2)
        ),
    }
    return pack(Contents({}, b"", tensors, dict.fromkeys(tensors, "embedding"), {}))[0]


def artifact_damage(sound: list[bytes]) -> Callable[[Random], bytes]:
    """Outer bytes, header, tokenizer or streams; the header, CRC-32 and SHA-256 then made right again."""
    prefix = container._PREFIX

    def damage(random: Random) -> bytes:
        data = random.choice(sound)
        kind = random.random()
        if kind < 0.1:
            return mutate_bytes(data, random.choice(sound), random)
        body = data[: -container._CHECKSUM]
        if kind < 0.3:
            return _sealed(mutate_bytes(body, random.choice(sound), random))
        start = prefix + int.from_bytes(body[5:9], "little")
        header, rest, check = brotli.decompress(body[prefix:start]), body[start:], body[13:17]
        if kind < 0.4:
            header, rest = _boastful(header, rest, random)
        elif kind < 0.7:
            header = mutate_json_text(header, random)
        else:
            length = len(rest)
            rest = mutate_bytes(rest, rest, random)
            # Of the right length it reaches the decoders; else its table would be refused at once.
            rest = (rest + bytes(length))[:length]
        packed = brotli.compress(header, quality=1)
        numbers = len(packed).to_bytes(4, "little") + len(header).to_bytes(4, "little")
        body = body[:5] + numbers + check + packed + rest
        return _sealed(_with_right_crc(body) if random.random() < 0.8 else body)

    return damage


_EMPTY_STREAMS = [
    *(bytes([method]) for method in Method),
    *(bytes([Method.CLUSTERED, clusters]) for clusters in (1, 16, 64)),
    *(bytes([Method.TRANSPOSED, Method.CLUSTERED, clusters]) for clusters in (1, 64)),
    bytes([Method.TRANSPOSED, Method.CONTEXT]),
    bytes([Method.CONTEXT, 0, 0]),
]


def _boastful(header: bytes, rest: bytes, random: Random) -> tuple[bytes, bytes]:
    """A matrix, a float tensor or a list of layers far larger than what there is of it in the file."""
    data = json.loads(header)
    row = random.choice(data["tensors"])
    size = 2 ** random.randrange(10, 30)
    rows = 2 ** random.randrange(size.bit_length())
    row[2] = [rows, size // rows]
    if random.random() < 0.5:
        # Nothing but a method: range coders read on behind their end, as zeros.
        length = sum(row[5])
        before = data["tokenizer"] + sum(
            sum(other[5]) for other in data["tensors"][: data["tensors"].index(row)]
        )
        streams = [random.choice(_EMPTY_STREAMS) for _ in row[5]]
        row[5] = [len(stream) for stream in streams]
        rest = rest[:before] + b"".join(streams) + rest[before + length :]
    if "model" in data["recipe"] and random.random() < 0.2:
        data["recipe"]["model"]["layers"] = [{}] * random.choice((20, 1000, 100_000))
    return json.dumps(data).encode(), rest


def _sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def _with_right_crc(body: bytes) -> bytes:
    """The CRC-32 of what the streams decode to, where they decode at all."""
    start = container._PREFIX + int.from_bytes(body[5:9], "little")
    try:
        header = header_from_bytes(brotli.decompress(body[container._PREFIX : start]))
        if header.unpacked_bytes > MIB:
            return body
        position, check = start + header.tokenizer_length, 0
        for entry in header.entries:
            parts = []
            for length in entry.lengths:
                parts.append(body[position : position + length])
                position += length
            tensor = container._unpack_tensor(entry, parts)
            check = container._crc(tensor, check)
    except BytegolfError:
        return body
    return body[:13] + check.to_bytes(4, "little") + body[17:]


def read_artifact_bytes(data: bytes) -> None:
    """The container: names, roles, finite values, integers on their grid."""
    contents = unpack(data)
    assert contents.tensors.keys() == contents.roles.keys()
    for tensor in contents.tensors.values():
        if isinstance(tensor, Quantized):
            assert -tensor.limit <= int(tensor.ints.min()) <= int(tensor.ints.max()) <= tensor.limit
            assert tensor.bits > 1 or bool(tensor.ints.all())
            assert bool((torch.isfinite(tensor.scales) & (tensor.scales > 0)).all())
            assert tensor.dequantize().shape == tensor.ints.shape
        else:
            assert bool(torch.isfinite(tensor.to(torch.float32)).all())


def load_from(path: Path) -> Callable[[bytes], None]:
    """The whole way from a file to a model in memory; nothing is scored."""

    def read(data: bytes) -> None:
        path.write_bytes(data)
        loaded = load(path)
        assert loaded.tokenizer.vocabulary == loaded.model.spec.vocabulary
        assert loaded.context >= 1

    return read


def tokenizer_damage(sound: list[Tokenizer]) -> Callable[[Random], bytes]:
    """The compressed bytes, the table, or the JSON in front of it, each packed again."""
    tables = [decompress_table(tokenizer.to_bytes()) for tokenizer in sound]
    packed = [compress_table(table) for table in tables]

    def damage(random: Random) -> bytes:
        kind = random.random()
        # The table of the byte tokenizer holds next to nothing that could break.
        index = 0 if random.random() < 0.1 else random.randrange(1, len(tables))
        if kind < 0.2:
            return mutate_bytes(packed[index], random.choice(packed), random)
        table = tables[index]
        if kind < 0.6:
            length = len(table)
            table = mutate_bytes(table, random.choice(tables), random)
            if random.random() < 0.7:
                # With its lengths right, what the columns hold is looked at.
                table = (table + bytes(length))[:length]
        else:
            stop = 4 + int.from_bytes(table[:4], "little")
            header = mutate_json_text(table[4:stop], random)
            table = len(header).to_bytes(4, "little") + header + table[stop:]
        return MAGIC + brotli.compress(table, quality=1)

    return damage


def read_tokenizer(data: bytes) -> None:
    """A tokenizer that encodes, decodes, and is written as itself."""
    tokenizer = tokenizer_from_bytes(data)
    assert len(tokenizer.token_bytes) == tokenizer.vocabulary
    assert tokenizer.token_bytes[tokenizer.bos] == b""
    text = "the word \u2581 of \xe4\0".encode() + b"\xff"
    ids = tokenizer.encode(text)
    assert 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocabulary
    assert not tokenizer.lossless or tokenizer.decode(ids) == text
    assert tokenizer_from_bytes(tokenizer.to_bytes()).digest == tokenizer.digest


def shard_damage(folder: Path) -> Callable[[Random], bytes]:
    """Bytes of a shard; it has no checksum of its own."""
    prepared = prepare(folder, training=TEXTS[2:], validation=TEXTS[:2], tokenizer=ByteTokenizer(), source={})
    return bytes_damage([path.read_bytes() for path in prepared.folder.glob("*.bin")])


def read_shard(path: Path) -> Callable[[bytes], None]:
    """A shard without a manifest."""

    def read(data: bytes) -> None:
        path.write_bytes(data)
        store = TokenStore.from_files([path], ByteTokenizer())
        assert store.tokens == (len(data) - 1024) // 2
        assert store.bytes == store.tokens - store.documents
        assert int(store.read(0, store.tokens).max()) <= ByteTokenizer.bos

    return read


def prepared_readers(folder: Path, tokenizer: Tokenizer) -> list[Reader]:
    """A prepared folder with one file damaged, and the manifest's digest of it made right again."""
    prepare(folder, training=TEXTS[2:], validation=TEXTS[:2], tokenizer=tokenizer, source={"text": "a"})
    sound = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    # An input is the name of the file, a zero, and the file.
    names = [*sound, "manifest.json", "manifest.json"]

    def damage(random: Random) -> bytes:
        name = random.choice(names)
        change = mutate_json_text if name == "manifest.json" else _change_bytes
        return name.encode() + b"\0" + change(sound[name], random)

    def placed(data: bytes) -> None:
        name, _, content = data.partition(b"\0")
        changed = {name.decode(): content}
        if name != b"manifest.json" and content[-1:] != b"\7":
            manifest = json.loads(sound["manifest.json"])
            digest = hashlib.sha256(content).hexdigest()
            for entry in manifest["shards"]:
                entry["sha256"] = digest if entry["file"] == name.decode() else entry["sha256"]
            if name.decode() in manifest["files"]:
                manifest["files"][name.decode()] = digest
            changed["manifest.json"] = json.dumps(manifest).encode()
        for file in sound:
            (folder / file).write_bytes(changed.get(file, sound[file]))

    def read(data: bytes) -> None:
        placed(data)
        prepared = open_prepared(folder)
        for store in (prepared.training, prepared.validation):
            ids = store.read(0, store.tokens)
            assert int(ids.max()) < prepared.tokenizer.vocabulary
            assert int(np.count_nonzero(ids == prepared.tokenizer.bos)) == store.documents
            assert type(store.bytes) is int
        assert all(isinstance(document.text, str) for document in prepared.validation_documents())
        assert prepared.training_bytes(1000)

    def check(data: bytes) -> None:
        placed(data)
        found = check_split(folder, TEXTS)
        assert found is None or found.documents == len(TEXTS)

    return [Reader("prepared_folder", damage, read), Reader("check_split", damage, check)]


def packed_damage(random: Random) -> bytes:
    """A packed file as bytes, its header as bytes, or its numbers, each under a right CRC-32."""
    layout = Layout(5000, 3000, random.choice((1, 7)), 200, 64, 32, False, 1, "float32", "a machine")
    if random.random() < 0.3:
        names = random.sample(("text_bytes", "tokens", "streams", "block_steps", "length", "stride"), 2)
        layout = replace(layout, **{name: random.choice((*EXTREMES, 100, 3000)) for name in names})
    count = layout.blocks if layout.block_steps > 0 and layout.blocks < 40 else 3
    blocks = tuple(PackedBlock(random.randbytes(4 * random.randrange(40)), 7) for _ in range(count))
    data = packed_to_bytes(Packed(layout, b"artifact", b"contents", blocks))
    kind = random.random()
    if kind < 0.5:
        data = mutate_bytes(data, data, random)
    elif kind < 0.8:
        stop = PACKED_PREFIX + int.from_bytes(data[PACKED_PREFIX - 2 : PACKED_PREFIX], "little")
        header = mutate_bytes(data[PACKED_PREFIX:stop], data, random)
        numbers = (len(header) & 0xFFFF).to_bytes(2, "little")
        data = data[: PACKED_PREFIX - 2] + numbers + header + data[stop:]
    if random.random() < 0.9 and len(data) > PACKED_PREFIX:
        header = data[PACKED_PREFIX:][: int.from_bytes(data[PACKED_PREFIX - 2 : PACKED_PREFIX], "little")]
        check = zlib.crc32(header).to_bytes(4, "little")
        data = data[: PACKED_PREFIX - 6] + check + data[PACKED_PREFIX - 2 :]
    return data


def read_packed_bytes(data: bytes) -> None:
    """A packed file, which is written again as it was read."""
    packed = read_packed(data)
    assert read_packed(packed_to_bytes(packed)) == packed
    assert sum(map(packed.layout.stream_tokens, range(packed.layout.streams))) == packed.layout.tokens
    assert len(packed.blocks) == packed.layout.blocks


def _change_bytes(data: bytes, random: Random) -> bytes:
    return mutate_bytes(data, data, random)
