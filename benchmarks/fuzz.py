"""Feeds damaged files to every reader and counts what comes of it.

    python benchmarks/fuzz.py [--inputs 10000] [--seed 0] [--reader NAME] [--only INDEX] [--out FILE]

Allowed outcomes: the input is read and what was read is sound, or it is refused with one line (a
`BytegolfError`). Everything else fails: another exception, a wrong result, more than 2 seconds of CPU time,
more memory than the reader's limit (`Reader.memory` + 20 × input, held by RLIMIT_AS in the reading process,
counted from the input's start), a process that dies. Inputs depend on seed, reader and index alone;
`--only` repeats one. A process reads, a second one watches it; exit code 1 if anything failed. Linux only.
"""

import argparse
import json
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

SECONDS, RATIO, STUCK_SECONDS = 2.0, 20, 60.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="this one only; may be repeated")
    parser.add_argument("--only", type=int, help="this input only, with its traceback")
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"))
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "FIRST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        read_all(options.reader[0], Path(options.child[0]), int(options.child[1]), options)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        names = options.reader or reader_names(Path(folder))
        results = {name: watch(name, Path(folder) / name, options) for name in names}
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "processor": processor(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "seed": options.seed,
        "limits": {"cpu_seconds": SECONDS, "bytes_per_input_byte": RATIO},
        "readers": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(results))
    return int(any(result["failures"] for result in results.values()))


def reader_names(folder: Path) -> list[str]:
    """Names of all readers."""
    from fuzz_readers import readers

    return [reader.name for reader in readers(folder / "names")]


def watch(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs one reader's inputs in processes of their own; a new one goes on behind an input that kills."""
    folder.mkdir()
    total: dict[str, Any] = {"inputs": 0, "read": 0, "refused": 0, "failures": []}
    seconds, slowest, peak, limit = 0.0, 0.0, 0, 0
    reasons: Counter[str] = Counter()
    first = 0 if options.only is None else options.only
    last = options.inputs if options.only is None else options.only + 1
    while first < last:
        command = [sys.executable, __file__, "--child", str(folder), str(first), "--reader", name]
        command += ["--inputs", str(last), "--seed", str(options.seed)]
        child = subprocess.Popen(command)
        seen, since = -1, time.monotonic()
        while child.poll() is None:
            time.sleep(0.05)
            at = _index(folder, first)
            if at != seen:
                seen, since = at, time.monotonic()
            elif time.monotonic() - since > STUCK_SECONDS:
                child.kill()
                child.wait()
        part = json.loads((folder / "part.json").read_text())
        total["read"] += part["read"]
        total["refused"] += part["refused"]
        total["failures"] += part["failures"]
        reasons.update(part["reasons"])
        seconds, peak = seconds + part["seconds"], max(peak, part["peak"])
        slowest, limit = max(slowest, part["slowest"]), part["limit"]
        first = last
        if child.returncode:
            first = _index(folder, 0) + 1
            total["failures"].append(
                {"index": first - 1, "outcome": f"process ended with {child.returncode}"}
            )
    total["inputs"] = total["read"] + total["refused"] + len(total["failures"])
    return total | {
        "seconds": round(seconds, 1),
        "slowest_seconds": round(slowest, 3),
        "peak_bytes": peak,
        "limit_bytes": limit,
        "refused_because": dict(reasons.most_common(40)),
    }


def read_all(name: str, folder: Path, first: int, options: argparse.Namespace) -> None:
    """The reading process: every input from `first` on, with the results so far in `part.json`."""
    import torch
    from fuzz_readers import readers

    torch.set_num_threads(1)
    part: dict[str, Any] = {
        "read": 0,
        "refused": 0,
        "failures": [],
        "reasons": {},
        "seconds": 0.0,
        "slowest": 0.0,
        "peak": 0,
    }
    (folder / "part.json").write_text(json.dumps(part | {"limit": 0}))
    (folder / "index").write_text(str(first))
    reader = next(reader for reader in readers(folder / f"files{first}") if reader.name == name)
    part["limit"] = reader.memory
    # What a reader builds once (tables of the library, caches of ours) is not the input's.
    for index in range(20):
        attempt(reader, reader.damage(Random(f"warm {index}")), None)
    for index in range(first, options.inputs):
        data = reader.damage(Random(f"{options.seed} {name} {index}"))
        (folder / "index").write_text(str(index))
        outcome, seconds, peak = attempt(reader, data, reader.memory + RATIO * len(data))
        part["seconds"] += seconds
        part["slowest"] = max(part["slowest"], seconds)
        part["peak"] = max(part["peak"], peak)
        allowed, _, reason = outcome.partition(": ")
        if allowed in ("read", "refused"):
            part[allowed] += 1
            if reason:
                part["reasons"][reason] = part["reasons"].get(reason, 0) + 1
        else:
            part["failures"].append({"index": index, "bytes": len(data), "outcome": outcome})
            if len(part["failures"]) <= 10:
                print(f"{name} {index}: {outcome}", file=sys.stderr)
        (folder / "part.json").write_text(json.dumps(part))


def attempt(reader: Any, data: bytes, limit: int | None) -> tuple[str, float, int]:
    """Outcome, CPU seconds, and the peak of resident memory above the start, of reading one input."""
    from bytegolf.errors import BytegolfError

    page = resource.getpagesize()
    mapped, resident = (int(n) * page for n in Path("/proc/self/statm").read_text().split()[:2])
    Path("/proc/self/clear_refs").write_text("5")
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + limit, resource.RLIM_INFINITY))
    began = time.process_time()
    try:
        reader.read(data)
        outcome = "read"
    except BytegolfError as error:
        several = "\n" in str(error)
        outcome = f"error of several lines: {error}" if several else f"refused: {_reason(str(error))}"
    except BaseException as error:
        outcome = (
            f"{type(error).__name__}: {error}"[:300] + " @ " + traceback.format_exc().splitlines()[-3].strip()
        )
    seconds = time.process_time() - began
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 - resident
    if seconds > SECONDS and outcome.startswith(("read", "refused")):
        outcome = f"took {seconds:.1f} s"
    return outcome, seconds, max(peak, 0)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown, a reader a line."""
    lines = [
        "| reader | inputs | read | refused | failed | seconds | slowest | peak MiB | limit |",
        "|" + "---|" * 9,
    ]
    for name, result in results.items():
        lines.append(
            f"| {name} | {result['inputs']:,} | {result['read']:,} | {result['refused']:,} "
            f"| {len(result['failures'])} | {result['seconds']:.0f} | {result['slowest_seconds']:.2f} s "
            f"| {result['peak_bytes'] / 2**20:.1f} | {result['limit_bytes'] >> 20} MiB + {RATIO} × input |"
        )
    kinds = Counter(failure["outcome"] for result in results.values() for failure in result["failures"])
    return "\n".join([*lines, *(f"{count} × {kind}" for kind, count in kinds.most_common())])


def processor() -> str:
    """The machine's own name of its processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _reason(message: str) -> str:
    """An error message without what differs from input to input, so that equal ones can be counted."""
    message = re.sub(r"/[^ ]*/", "", message)
    message = re.sub(r"'[^']*'|b\"[^\"]*\"|\[.*\]|\(.*\)", "…", message)
    return re.sub(r"[0-9a-f]{12,}|-?\d+", "n", message)[:100]


def _index(folder: Path, otherwise: int) -> int:
    try:
        return int((folder / "index").read_text() or otherwise)
    except FileNotFoundError:
        return otherwise


if __name__ == "__main__":
    sys.exit(main())
