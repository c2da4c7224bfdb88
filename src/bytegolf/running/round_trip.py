"""The round trip: a text packed here, and restored by a process that has the artifact and nothing else."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bytegolf.errors import PackedError
from bytegolf.evaluation.proof.verdict import ROUND_TRIP, Verdict, failed, not_checked, passed
from bytegolf.evaluation.windows import Sliding, WindowPlan
from bytegolf.running.packing import pack_file
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import Artifact


def round_trip(
    artifact: Artifact,
    path: Path,
    text: bytes,
    plan: WindowPlan,
    *,
    adapt: bool,
    device: str,
    display: Display,
) -> Verdict:
    """Packs the documents' bytes laid end to end, and unpacks them in a fresh process and an empty folder.

    `path` is the artifact's file. The windows are those of a sliding `plan`; for other plans, of training and
    half as far apart.
    """
    with tempfile.TemporaryDirectory(prefix="bytegolf-") as name:
        here, there = Path(name) / "here", Path(name) / "there"
        here.mkdir()
        there.mkdir()
        source = here / "text"
        source.write_bytes(text)
        try:
            packed = pack_file(
                artifact,
                source,
                there / "packed.bgp",
                plan=plan if isinstance(plan, Sliding) else None,
                adapt=adapt,
                compare=False,
                display=display,
            )
        except PackedError as error:
            return not_checked(ROUND_TRIP, f"Nothing was packed: {error}.")
        shutil.copyfile(path, there / "artifact.bg")
        display.update("unpacking in a fresh process …")
        began = time.perf_counter()
        done = _unpack(there, device)
        numbers = {
            "text_bytes": len(text),
            "packed_bytes": packed.packed_bytes,
            "claim_bits_per_byte": packed.bits_per_byte(packed.packed_bytes),
            "ledger_bits_per_byte": packed.bits_per_byte(packed.ledger_bytes),
            "streams": packed.streams,
            "adaptive": adapt,
            "pack_seconds": packed.seconds,
            "unpack_seconds": time.perf_counter() - began,
        }
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            return failed(ROUND_TRIP, f"The packed text cannot be restored: {lines[-1]}", **numbers)
        if (there / "restored").read_bytes() != text:
            return failed(ROUND_TRIP, "The restored text is not the one that was packed.", **numbers)
    return passed(
        ROUND_TRIP,
        f"{len(text):,} bytes came back from {packed.packed_bytes:,} in a process that had only them and the "
        f"artifact: a claim of {numbers['claim_bits_per_byte']:.4f} bits per byte, beside "
        f"{numbers['ledger_bits_per_byte']:.4f} by the ledger of the packed session.",
        **numbers,
    )


def _unpack(folder: Path, device: str) -> subprocess.CompletedProcess[str]:
    words = ["unpack", "packed.bgp", "-m", "artifact.bg", "-o", "restored", "--device", device]
    return subprocess.run(
        [sys.executable, "-m", "bytegolf", *words], cwd=folder, capture_output=True, text=True, check=False
    )
