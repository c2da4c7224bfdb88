"""Artifacts round-trip exactly, account for every byte, and answer bad files with one line."""

import functools
import hashlib
import json
import tracemalloc
from pathlib import Path

import brotli
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.artifact import container, header
from bytegolf.artifact.container import Contents, pack, read_artifact, unpack, write_artifact
from bytegolf.compression.floats import Float8
from bytegolf.compression.grid import Grid, Quantized, StandardDeviations
from bytegolf.compression.residual import LowRankCorrection, corrected
from bytegolf.compression.ternary import Binary, Ternary
from bytegolf.errors import ArtifactError


def _corrected(weight: torch.Tensor) -> Quantized:
    grid = Grid(3, StandardDeviations(3), rotated=True)
    return corrected(weight, grid.quantize(weight), LowRankCorrection(rank=2))


def _contents() -> Contents:
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int, bits: int) -> Quantized:
        return Grid(bits, StandardDeviations(6)).quantize(torch.randn(rows, columns, generator=generator))

    tensors: dict[str, Quantized | torch.Tensor] = {
        "embedding.weight": matrix(40, 24, 8),
        "blocks.0.query.weight": matrix(24, 24, 4),
        "blocks.0.up.weight": Ternary(10).quantize(torch.randn(16, 24, generator=generator)),
        "blocks.0.down.weight": Binary(16).quantize(torch.randn(24, 40, generator=generator)),
        "blocks.0.gate.weight": Float8().quantize(torch.randn(7, 24, generator=generator)),
        "blocks.0.out.weight": _corrected(torch.randn(20, 24, generator=generator)),
        "blocks.0.gain": torch.randn(6, generator=generator),
        "blocks.0.mix": torch.randn(2, 3, 4, generator=generator),
        "huge": torch.tensor([1e6, -2.0]),
        "scalar": torch.tensor(0.5),
    }
    roles = dict.fromkeys(tensors, "scalar") | {
        "embedding.weight": "embedding",
        "blocks.0.query.weight": "attention_query",
        "blocks.0.up.weight": "mlp_up",
        "blocks.0.down.weight": "mlp_down",
        "blocks.0.gate.weight": "mlp_gate",
        "blocks.0.out.weight": "attention_out",
    }
    recipe = {"name": "tiny", "depth": 2, "rate": 0.02, "list": [1, None, True], "text": "Ähm ▁"}
    return Contents(recipe, b"pieces" * 20, tensors, roles, {"steps": 10, "seed": 1})


@functools.cache
def _packed() -> bytes:
    return pack(_contents())[0]


def _sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def _with_header(change) -> bytes:
    """A file with a right checksum whose header JSON went through `change` (dict to dict or bytes)."""
    data = _packed()[: -container._CHECKSUM]
    start = len(container.MAGIC) + 1
    packed_length = int.from_bytes(data[start : start + 4], "little")
    plain = brotli.decompress(data[container._PREFIX : container._PREFIX + packed_length])
    changed = change(json.loads(plain))
    plain = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
    packed = brotli.compress(plain, quality=1)
    prefix = data[:start] + len(packed).to_bytes(4, "little") + len(plain).to_bytes(4, "little")
    return _sealed(prefix + data[start + 8 : start + 12] + packed + data[container._PREFIX + packed_length :])


def test_everything_comes_back(tmp_path: Path) -> None:
    contents = _contents()
    write_artifact(tmp_path / "model.bg", contents)
    read = read_artifact(tmp_path / "model.bg")
    assert (read.recipe, read.tokenizer, read.training, read.roles) == (
        contents.recipe,
        contents.tokenizer,
        contents.training,
        contents.roles,
    )
    assert list(read.tensors) == list(contents.tensors)
    for name, tensor in contents.tensors.items():
        found = read.tensors[name]
        if isinstance(tensor, Quantized):
            assert isinstance(found, Quantized)
            assert (found.bits, found.group, found.rotated) == (tensor.bits, tensor.group, tensor.rotated)
            assert (found.correction is None) == (tensor.correction is None)
            assert torch.equal(found.dequantize(), tensor.dequantize())
            assert torch.equal(found.ints, tensor.ints)
            assert torch.equal(found.scales, tensor.scales)
        else:
            assert isinstance(found, torch.Tensor)
            stays = name == "huge" or tensor.dtype == torch.float8_e4m3fn
            expected = tensor if stays else tensor.half()
            assert found.dtype == expected.dtype
            assert torch.equal(found.float(), expected.float())


def test_the_account_adds_up_to_the_file(tmp_path: Path) -> None:
    contents = _contents()
    account = write_artifact(tmp_path / "model.bg", contents)
    size = (tmp_path / "model.bg").stat().st_size
    assert account.total_bytes == size
    parts = dict(account.parts)
    assert len(parts) == len(account.parts)
    assert parts["tokenizer"] == len(contents.tokenizer)
    matrices = {"embedding", "attention_query", "mlp_up", "mlp_down", "mlp_gate", "attention_out"}
    others = {"header", "tokenizer", "scales", "corrections", "pass-through", "checksum"}
    assert parts.keys() == matrices | others
    assert account.challenge_bytes(1234) == size - len(contents.tokenizer) + 1234


def test_the_same_contents_give_the_same_bytes() -> None:
    assert pack(_contents())[0] == pack(_contents())[0]


def test_read_tensors_can_be_written_to(tmp_path: Path) -> None:
    write_artifact(tmp_path / "model.bg", _contents())
    for tensor in read_artifact(tmp_path / "model.bg").tensors.values():
        values = tensor.ints if isinstance(tensor, Quantized) else tensor
        values.copy_(torch.ones_like(values))


def test_every_truncation_is_refused() -> None:
    data = _packed()
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            unpack(data[:length])


def test_every_flipped_bit_is_refused() -> None:
    data = _packed()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        with pytest.raises(ArtifactError):
            unpack(bytes(changed))


def test_damage_under_a_right_checksum_is_refused_or_harmless() -> None:
    """Someone who recomputes the SHA-256 still gets no other exception and no large allocation."""
    body = _packed()[: -container._CHECKSUM]
    random = np.random.default_rng(0)
    refused = 0
    tracemalloc.start()
    for trial in range(600):
        if trial == 150:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        changed = bytearray(body)
        for _ in range(int(random.integers(1, 4))):
            changed[int(random.integers(5, len(changed)))] = int(random.integers(256))
        if random.random() < 0.3:
            del changed[int(random.integers(5, len(changed))) :]
        try:
            unpack(_sealed(bytes(changed)))
        except ArtifactError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
    assert refused > 480
    assert peak < 20_000_000


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    value=_JSON, place=st.sampled_from(["tokenizer", "tensors", "recipe", "training", "row", "cell", "all"])
)
def test_any_value_anywhere_in_the_header_is_refused_or_harmless(value, place: str) -> None:
    def change(data):
        if place == "all":
            return value
        if place == "row":
            data["tensors"][1] = value
        elif place == "cell":
            data["tensors"][0][hash(repr(value)) % 6] = value
        else:
            data[place] = value
        return data

    try:
        unpack(_with_header(change))
    except ArtifactError as error:
        assert "\n" not in str(error)  # noqa: PT017


def _cell(row: int, column: int, value):
    def change(data):
        data["tensors"][row][column] = value
        return data

    return change


def _added(row: int, value):
    def change(data):
        data["tensors"][row].append(value)
        return data

    return change


_NAMES = list(_contents().tensors)
_GAIN, _TERNARY, _FLOAT8, _FACTORS = (
    _NAMES.index(f"blocks.0.{name}") for name in ("gain", "up.weight", "gate.weight", "out.weight")
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_cell(1, 0, "embedding.weight"), "same name"),
        (_cell(0, 0, "../../etc/passwd"), "describes no artifact"),
        (_cell(0, 2, [40, 25]), "tensor embedding.weight"),
        (_cell(0, 2, [1 << 20, 1 << 20]), "at most"),
        (_cell(0, 2, [1, (1 << 20) + 1]), "describes no artifact"),
        (_cell(0, 2, [0, 24]), "no values"),
        (_cell(0, 2, [-1, 24]), "describes no artifact"),
        (_cell(0, 2, [40, 24, 1]), "describes no artifact"),
        (_cell(0, 3, 9), "describes no artifact"),
        (_cell(0, 3, True), "describes no artifact"),
        (_cell(_GAIN, 4, "float64"), "describes no artifact"),
        (_cell(_GAIN, 4, {}), "describes no artifact"),
        (_cell(0, 2, [1 << 14, 1 << 12]), "in a file of"),
        (_cell(_GAIN, 2, [1 << 24]), "in a file of"),
        (_cell(_GAIN, 4, "float32"), "tensor blocks.0.gain"),
        (_cell(_TERNARY, 6, 0), "describes no artifact"),
        (_cell(_TERNARY, 6, -3), "describes no artifact"),
        (_cell(_TERNARY, 6, 25), "describes no artifact"),
        (_cell(_TERNARY, 6, True), "describes no artifact"),
        (_cell(_TERNARY, 6, 1), "tensor blocks.0.up.weight"),
        (_cell(_TERNARY, 3, 1), "tensor blocks.0.up.weight"),
        (_cell(_TERNARY, 3, 0), "describes no artifact"),
        (_cell(_FLOAT8, 2, [1, 1 << 21]), "describes no artifact"),
        (_cell(_FLOAT8, 2, [8, 24]), "tensor blocks.0.gate.weight"),
        (_added(_GAIN, 3), "describes no artifact"),
        (_added(_TERNARY, 3), "describes no artifact"),
        (_cell(0, 4, "turned"), "describes no artifact"),
        (_cell(0, 4, ["ints"]), "describes no artifact"),
        (_cell(_FACTORS, 6, 25), "describes no artifact"),
        (_cell(_FACTORS, 6, 5), "tensor blocks.0.out.weight"),
        (_cell(_FACTORS, 7, [2, 2, 4]), "describes no artifact"),
        (_cell(_FACTORS, 7, 3), "describes no artifact"),
        (_cell(_FACTORS, 7, [0, 2, 4, 48]), "describes no artifact"),
        (_cell(_FACTORS, 7, [17, 2, 4, 48]), "describes no artifact"),
        (_cell(_FACTORS, 7, [21, 2, 4, 48]), "describes no artifact"),
        (_cell(_FACTORS, 7, [2, 1, 4, 48]), "describes no artifact"),
        (_cell(_FACTORS, 7, [2, 2, 8, 48]), "describes no artifact"),
        (_cell(_FACTORS, 7, [2, 2, 4, 0]), "describes no artifact"),
        (_cell(_FACTORS, 7, [2, 2, 4, 49]), "describes no artifact"),
        (_cell(_FACTORS, 7, [2, 2, 4, True]), "describes no artifact"),
        (_cell(_FACTORS, 7, [3, 2, 4, 48]), "tensor blocks.0.out.weight"),
        (_cell(_FACTORS, 7, [2, 2, 4, 1]), "tensor blocks.0.out.weight"),
        (_cell(_FACTORS, 5, [10, 10]), "describes no artifact"),
        (_cell(0, 5, [10, 10]), "streams where"),
        (lambda data: data | {"tokenizer": 10}, "streams where"),
        (lambda data: data | {"tensors": data["tensors"] * 1000}, "at most"),
        (lambda data: data | {"code": "import os"}, "describes no artifact"),
        (lambda data: b"[" * 100_000 + b"]" * 100_000, "not valid JSON"),
        (lambda data: json.dumps(data | {"training": {"a": float("nan")}}).encode(), "NaN"),
        (lambda data: json.dumps(data).replace("0.02", "1e999").encode(), "too large"),
        (lambda data: json.dumps(data).replace('"depth"', '"name"').encode(), "twice"),
        (lambda data: json.dumps(data).replace("tiny", "\\ud800").encode(), "not valid JSON"),
        (lambda data: json.dumps(data).replace("0.02", "9" * 5000).encode(), "not valid JSON"),
        (lambda data: b"\xff\xfe", "not valid JSON"),
        (lambda data: b" " * (header.MAX_HEADER_BYTES + 1), "longer than allowed"),
    ],
)
def test_hostile_headers_are_refused_by_name(change, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        unpack(_with_header(change))


def test_weights_that_decode_to_other_values_are_noticed() -> None:
    data = bytearray(_packed()[: -container._CHECKSUM])
    data[len(container.MAGIC) + 1 + 8] ^= 1
    with pytest.raises(ArtifactError, match="other values"):
        unpack(_sealed(bytes(data)))


def test_trailing_bytes_are_refused() -> None:
    body = _packed()[: -container._CHECKSUM]
    with pytest.raises(ArtifactError, match="streams where"):
        unpack(_sealed(body + b"\0"))


def test_other_files_and_versions_are_refused() -> None:
    with pytest.raises(ArtifactError, match="not a bytegolf artifact"):
        unpack(b"PK\x03\x04" + bytes(100))
    data = bytearray(_packed())
    data[len(container.MAGIC)] = 7
    with pytest.raises(ArtifactError, match="version 7"):
        unpack(bytes(data))


def test_files_of_the_first_version_are_read() -> None:
    """They held what this version may hold, so only the number differs."""
    contents = _contents()
    older = {
        name: tensor for name, tensor in contents.tensors.items() if name in ("embedding.weight", "huge")
    }
    roles = {name: contents.roles[name] for name in older}
    body = bytearray(pack(Contents(contents.recipe, b"", older, roles, {}))[0][: -container._CHECKSUM])
    body[len(container.MAGIC)] = 1
    assert unpack(_sealed(bytes(body))).tensors.keys() == older.keys()


def test_a_file_beyond_the_largest_size_is_refused_before_it_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "MAX_FILE_BYTES", 100)
    (tmp_path / "model.bg").write_bytes(bytes(1000))
    with pytest.raises(ArtifactError, match="100 bytes"):
        read_artifact(tmp_path / "model.bg")


def test_reading_takes_memory_for_the_file_not_for_the_largest_one(tmp_path: Path) -> None:
    write_artifact(tmp_path / "model.bg", _contents())
    tracemalloc.start()
    read_artifact(tmp_path / "model.bg")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_what_could_not_be_read_again_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "FREE_UNPACKED_BYTES", 0)
    zeros = Quantized(torch.zeros(100, 1000, dtype=torch.int8), torch.ones(100).half(), 8)
    with pytest.raises(ArtifactError, match="bytes of tensors in a file of"):
        pack(Contents({}, b"", {"zeros": zeros}, {"zeros": "scalar"}, {}))


@pytest.mark.parametrize("name", ["absent.bg", ""])
def test_a_path_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_artifact(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("gain", torch.tensor([1.0, float("nan")]), "NaN"),
        ("empty", torch.zeros(0), "no values"),
        ("bad name", torch.zeros(2), "describes no artifact"),
        ("beyond", Quantized(torch.full((2, 2), 8, dtype=torch.int8), torch.ones(2).half(), 4), "beyond"),
        ("scale", Quantized(torch.zeros(2, 2, dtype=torch.int8), torch.zeros(2).half(), 4), "positive"),
        ("scales", Quantized(torch.zeros(2, 2, dtype=torch.int8), torch.ones(3).half(), 4), r"shape \(3,\)"),
        (
            "groups",
            Quantized(torch.zeros(2, 5, dtype=torch.int8), torch.ones(2, 2).half(), 2, 2),
            r"\(2, 3\)",
        ),
        ("group", Quantized(torch.zeros(2, 2, dtype=torch.int8), torch.ones(2, 1).half(), 2, 3), "describes"),
        ("zeros", Quantized(torch.zeros(2, 2, dtype=torch.int8), torch.ones(2).half(), 1), "zeros"),
        ("eight", torch.tensor([[float("nan")]]).to(torch.float8_e4m3fn), "NaN"),
        ("bits", Quantized(torch.zeros(2, 2, dtype=torch.int8), torch.ones(2).half(), 9), "9 bits"),
    ],
)
def test_tensors_that_cannot_be_stored_leave_no_file(tmp_path: Path, name: str, tensor, words: str) -> None:
    contents = Contents({}, b"", {name: tensor}, {name: "scalar"}, {})
    with pytest.raises(ArtifactError, match=words):
        write_artifact(tmp_path / "model.bg", contents)
    assert list(tmp_path.iterdir()) == []


def test_records_without_a_json_form_are_refused() -> None:
    with pytest.raises(ArtifactError, match="JSON"):
        pack(Contents({"value": float("inf")}, b"", {}, {}, {}))
    with pytest.raises(ArtifactError, match="roles differ in weight"):
        pack(Contents({}, b"", {"weight": torch.zeros(2)}, {}, {}))
