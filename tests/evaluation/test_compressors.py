"""The classic compressors beside a model's score."""

import importlib.util
import lzma
import random
import subprocess

import brotli
import pytest

from bytegolf.evaluation.compressors import Baseline, _train, _zstd, baselines

WORDS = [
    "".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=3 + i % 7)).encode() for i in range(3000)
]


def prose(seed: int, words: int) -> bytes:
    """Text of a fixed vocabulary with the usual few frequent words."""
    generator = random.Random(seed)
    return b" ".join(WORDS[int(3000 * generator.random() ** 3)] for _ in range(words))


@pytest.fixture(scope="module")
def held_out() -> bytes:
    return prose(1, 4_000)


@pytest.fixture(scope="module")
def rows(held_out: bytes) -> list[Baseline]:
    return baselines(held_out, prose(2, 60_000), 60_000)


def test_every_row_states_its_own_size_per_byte_of_text(rows: list[Baseline], held_out: bytes) -> None:
    for row in rows:
        assert row.bytes is not None
        assert row.bits_per_byte == pytest.approx(row.bytes * 8 / len(held_out), rel=1e-12)


def test_sizes_are_those_of_streams_that_hold_the_text(rows: list[Baseline], held_out: bytes) -> None:
    xz = lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME)
    brotlied = brotli.compress(held_out, quality=11, lgwin=24)
    assert lzma.decompress(xz) == held_out
    assert brotli.decompress(brotlied) == held_out
    assert [(row.name, row.bytes) for row in rows[:2]] == [("xz -9e", len(xz)), ("brotli 11", len(brotlied))]


def test_xz_matches_the_command_line_tool(rows: list[Baseline], held_out: bytes) -> None:
    try:
        tool = subprocess.run(["xz", "-9e", "-c"], input=held_out, capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("xz is not installed")
    assert rows[0].bytes == len(tool)


def test_a_dictionary_of_training_text_helps(rows: list[Baseline]) -> None:
    plain, helped = rows[2], rows[3]
    assert plain.name == "zstd 22"
    assert "dictionary" in helped.name or "training text" in helped.name
    assert helped.bytes is not None
    assert plain.bytes is not None
    assert helped.bytes < 0.95 * plain.bytes


def test_the_dictionary_is_no_larger_than_asked(held_out: bytes) -> None:
    shared = held_out + prose(3, 40_000)
    # The held-out text stands at the start of the training text, out of reach of a short raw dictionary.
    assert baselines(held_out, shared, 10_000)[3].bytes != baselines(held_out, shared, len(shared))[3].bytes
    assert 0 < len(_train(shared, 10_000)) <= 10_000


@pytest.mark.parametrize("trained", [False, True])
def test_zstd_frames_decode_to_the_text(held_out: bytes, trained: bool) -> None:
    zstandard = pytest.importorskip("zstandard")
    training = prose(2, 60_000)
    dictionary = _train(training, 60_000) if trained else training[-60_000:]
    kind = zstandard.DICT_TYPE_FULLDICT if trained else zstandard.DICT_TYPE_RAWCONTENT
    decoder = zstandard.ZstdDecompressor(
        dict_data=zstandard.ZstdCompressionDict(dictionary, dict_type=kind), max_window_size=1 << 31
    )
    assert decoder.decompress(_zstd(held_out, dictionary, trained=trained)) == held_out


def test_text_seen_in_the_dictionary_costs_almost_nothing(held_out: bytes) -> None:
    row = baselines(held_out, held_out, len(held_out))[3]
    assert row.name == f"zstd 22 + {len(held_out):,} bytes of training text"
    assert row.bits_per_byte is not None
    assert row.bits_per_byte < 0.02


@pytest.mark.parametrize(("training", "size"), [(b"", 1000), (b"some text", 0)])
def test_without_a_dictionary_its_row_is_left_out(training: bytes, size: int) -> None:
    assert [row.name for row in baselines(b"held out", training, size)] == ["xz -9e", "brotli 11", "zstd 22"]


@pytest.mark.parametrize("size", [1, 7, 100, 10**9])
def test_any_dictionary_size_and_any_bytes_work(size: int) -> None:
    noise = random.Random(5).randbytes(3_000)
    assert len(baselines(b"\0", noise, size)) == 4
    assert len(baselines(noise, b"\xff", size)) == 4


def test_without_zstandard_the_row_says_so(monkeypatch: pytest.MonkeyPatch, held_out: bytes) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    last = baselines(held_out, held_out, 100)[-1]
    assert last == Baseline("zstd 22 (unavailable: pip install 'bytegolf[data]')", None, None)


def test_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        baselines(b"", b"training", 100)
