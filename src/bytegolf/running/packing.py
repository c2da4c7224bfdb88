"""Files packed with an artifact's model, and restored from it."""

import lzma
import math
import time
from dataclasses import dataclass
from pathlib import Path

from bytegolf.errors import PackedError, TextError
from bytegolf.evaluation.codec import pack, parallel_ledger, unpack
from bytegolf.evaluation.legality import Ledger
from bytegolf.evaluation.packed import packed_to_bytes, read_packed
from bytegolf.evaluation.windows import Sliding
from bytegolf.files import atomic_write
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import Artifact

#: xz takes about a second for each 3 MB; beyond this it is not shown.
_XZ_BYTES = 20_000_000


@dataclass(frozen=True)
class PackedSize:
    """What packing a file came to. Sizes in bytes, scores in bits for each byte of the file.

    ledger: the model's scores of the very session that was coded, as bytes. parallel: the same session scored
    in whole windows. uncut: the file scored as one stream, None where it was one.
    """

    source_bytes: int
    packed_bytes: int
    tokens: int
    streams: int
    ledger_bytes: float
    parallel_bytes: float | None
    uncut_bytes: float | None
    xz_bytes: int | None
    seconds: float

    def bits_per_byte(self, size: float) -> float:
        """A size of this file as a score: 8 · size / source bytes."""
        return 8.0 * size / max(1, self.source_bytes)


def pack_file(
    artifact: Artifact,
    source: Path,
    target: Path,
    *,
    plan: Sliding | None = None,
    streams: int | None = None,
    adapt: bool = False,
    compare: bool = True,
    display: Display,
) -> PackedSize:
    """Packs `source` into `target`. With `compare` the text is also scored in whole windows, cut and uncut.

    Raises `TextError` if the file cannot be read, `PackedError` if it cannot be packed with this artifact.
    """
    data = _read(source)
    adaptation = artifact.required_adaptation() if adapt else None
    plan = plan or Sliding(artifact.context, max(1, artifact.context // 2))
    report = pack(
        artifact.model,
        artifact.tokenizer,
        data,
        artifact.digest,
        plan,
        streams=streams,
        adaptation=adaptation,
        watch=display.rate("packing"),
    )
    packed = packed_to_bytes(report.packed)
    atomic_write(target, packed)
    layout = report.packed.layout

    def parallel(count: int) -> float:
        ledger = parallel_ledger(
            artifact.model,
            artifact.tokenizer,
            report.ids,
            layout.with_streams(count),
            adaptation=adaptation,
            watch=display.rate(f"scoring in {count} {'streams' if count > 1 else 'stream'}"),
        )
        return _ledger_bytes(ledger)

    compare = compare and layout.tokens > 0
    display.update("xz …")
    return PackedSize(
        source_bytes=len(data),
        packed_bytes=len(packed),
        tokens=layout.tokens,
        streams=layout.streams,
        ledger_bytes=_ledger_bytes(report.ledger),
        parallel_bytes=parallel(layout.streams) if compare else None,
        uncut_bytes=parallel(1) if compare and layout.streams > 1 else None,
        xz_bytes=len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) if len(data) <= _XZ_BYTES else None,
        seconds=report.seconds,
    )


def unpack_file(artifact: Artifact, source: Path, target: Path, *, display: Display) -> float:
    """Restores into `target` what `source` holds; returns the seconds it took.

    Raises `PackedError` if the file is damaged, of another artifact, or cannot be restored on this machine.
    """
    began = time.perf_counter()
    try:
        packed = read_packed(_read(source))
    except PackedError as error:
        raise PackedError(f"{source}: {error}") from error
    data = unpack(
        artifact.model,
        artifact.tokenizer,
        packed,
        artifact.digest,
        adaptation=artifact.required_adaptation() if packed.layout.adaptive else None,
        watch=display.rate("unpacking"),
    )
    atomic_write(target, data)
    return time.perf_counter() - began


def _ledger_bytes(ledger: Ledger) -> float:
    return ledger.total_nats / math.log(2.0) / 8.0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"{path} cannot be read ({error.strerror}); name a file") from error
