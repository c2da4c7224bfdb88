"""What classic compressors make of the same held-out bytes: the yardsticks beside a model's score."""

import importlib.util
import lzma
from dataclasses import dataclass

import brotli

# The dictionary trainer's time grows with its text; 8 MB take about four seconds on one core.
_TRAINER_TEXT = 8_000_000
# Lengths of the trainer's samples, of the segments it picks, and of the strings it counts, in bytes. Of those
# tried on the King James Bible (samples 1-30 kB, segments 1-8 kB, strings 6 and 8) these compressed best.
_SAMPLE, _SEGMENT, _STRING = 10_000, 1_000, 6


@dataclass(frozen=True)
class Baseline:
    """One compressor on the held-out bytes.

    `bytes` and `bits_per_byte` are None where the compressor is not installed; `name` then says so.
    """

    name: str
    bytes: int | None
    bits_per_byte: float | None


def baselines(held_out: bytes, training: bytes, dictionary_bytes: int) -> list[Baseline]:
    """Compressed sizes of `held_out` as one stream, the most favourable way for each compressor.

    The last one may read a dictionary of at most `dictionary_bytes` taken from `training`, as much as a
    model file of that size carries: the better of the raw end of the text and one that zstd's own trainer
    makes; the name says which. The dictionary is not counted, just as a model's file is not counted in its
    bits per byte. Without training text, or for a dictionary of no bytes, that row is left out.

    Raises `ValueError` for empty `held_out`, which has no bits per byte.
    """
    if not held_out:
        raise ValueError("held_out is empty; bits per byte needs at least one byte")
    rows = [
        _row("xz -9e", lzma.compress(held_out, preset=9 | lzma.PRESET_EXTREME), held_out),
        _row("brotli 11", brotli.compress(held_out, quality=11, lgwin=24), held_out),
    ]
    if importlib.util.find_spec("zstandard") is None:
        return [*rows, Baseline("zstd 22 (unavailable: pip install 'bytegolf[data]')", None, None)]
    rows.append(_row("zstd 22", _zstd(held_out, dictionary=b"", trained=False), held_out))
    if training and dictionary_bytes > 0:
        rows.append(_with_dictionary(held_out, training, dictionary_bytes))
    return rows


def _row(name: str, compressed: bytes, held_out: bytes) -> Baseline:
    return Baseline(name, len(compressed), 8 * len(compressed) / len(held_out))


def _with_dictionary(held_out: bytes, training: bytes, dictionary_bytes: int) -> Baseline:
    raw = training[-dictionary_bytes:]
    tried = {f"zstd 22 + {len(raw):,} bytes of training text": _zstd(held_out, raw, trained=False)}
    trained = _train(training, dictionary_bytes)
    if trained:
        tried[f"zstd 22 + trained dictionary of {len(trained):,} bytes"] = _zstd(
            held_out, trained, trained=True
        )
    name = min(tried, key=lambda name: len(tried[name]))
    return _row(name, tried[name], held_out)


def _zstd(held_out: bytes, dictionary: bytes, trained: bool) -> bytes:
    """One zstd frame at level 22, with a window that spans dictionary and text."""
    import zstandard  # an extra: text and models work without it

    kind = zstandard.DICT_TYPE_FULLDICT if trained else zstandard.DICT_TYPE_RAWCONTENT
    window_log = min(max(27, (len(dictionary) + len(held_out)).bit_length()), zstandard.WINDOWLOG_MAX)
    settings = zstandard.ZstdCompressionParameters.from_level(22, window_log=window_log, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(
        compression_params=settings,
        dict_data=zstandard.ZstdCompressionDict(dictionary, dict_type=kind) if dictionary else None,
    )
    return compressor.compress(held_out)


def _train(training: bytes, dictionary_bytes: int) -> bytes:
    """The dictionary that zstd's trainer makes of `training`; empty where it cannot make one."""
    import zstandard

    text = training[-_TRAINER_TEXT:]
    if dictionary_bytes > len(text) // 2:
        return b""  # hardly anything to choose from: the raw end of the text is at least as good
    samples = [text[start : start + _SAMPLE] for start in range(0, len(text), _SAMPLE)]
    try:
        # pyrefly: ignore [bad-argument-type]  (its stub wants ByteString in an invariant list)
        made = zstandard.train_dictionary(dictionary_bytes, samples, level=22, k=_SEGMENT, d=_STRING)
    except zstandard.ZstdError:
        return b""  # too few samples, or a dictionary smaller than a segment
    return made.as_bytes()
