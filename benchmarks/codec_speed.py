"""Packs a file with an artifact, restores it in a fresh process, and records sizes and tokens a second.

    python benchmarks/codec_speed.py ARTIFACT FILE [--streams N] [--length L --stride S] [--out RECORD.json]

The record holds the size of the packed file beside the ledger of its session, the same session scored in
whole windows, and the file scored as one stream.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bytegolf.evaluation.windows import Sliding
from bytegolf.running.environment import describe_environment
from bytegolf.running.packing import pack_file
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import open_artifact


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--bytes", type=int, help="only the first so many bytes of FILE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("codec_speed.json"))
    options = parser.parse_args()
    artifact = open_artifact(options.artifact, device=options.device)
    length = options.length or artifact.context
    plan = Sliding(length, options.stride or max(1, length // 2))
    with tempfile.TemporaryDirectory() as name:
        source, packed, restored = (Path(name) / part for part in ("source", "packed.bgp", "restored"))
        source.write_bytes(options.file.read_bytes()[: options.bytes])
        display = Display(Console(stderr=True))
        size = pack_file(artifact, source, packed, plan=plan, streams=options.streams, display=display)
        began = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "bytegolf", "unpack", str(packed)),
                *("-m", str(options.artifact), "-o", str(restored), "--device", options.device),
            ],
            check=True,
        )
        unpack_seconds = time.perf_counter() - began
        same = restored.read_bytes() == source.read_bytes()
    record = {
        "machine": describe_environment(),
        "artifact": {
            "sha256": artifact.digest.hex(),
            "bytes": options.artifact.stat().st_size,
            "recipe": artifact.recipe.get("name"),
        },
        "file": options.file.name,
        "plan": plan.name,
        **asdict(size),
        "restored": same,
        "pack_tokens_per_second": size.tokens / size.seconds,
        "unpack_seconds_with_start": unpack_seconds,
        "claim_bits_per_byte": size.bits_per_byte(size.packed_bytes),
        "excess_over_ledger": size.packed_bytes / size.ledger_bytes - 1.0,
    }
    print(json.dumps(record, indent=1))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    assert same, "the file did not come back"


if __name__ == "__main__":
    main()
