"""What each coding makes of the integers of an artifact's matrices, in bytes and seconds.

    python benchmarks/coders.py ARTIFACT [--storage stored|ternary|binary] [--out FILE]

With `ternary` or `binary` the matrices are first put on three or two values, groups of 128 columns, by
rounding what is stored: the distribution of a network that was not trained for it. zstd is measured where it
is installed. One process on one core; the record holds every role, the table their sums.
"""

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import processor

from bytegolf.artifact import coding, packing, ranges
from bytegolf.artifact.compressors import compress, compress_lzma, squeeze
from bytegolf.artifact.container import read_artifact
from bytegolf.compression.clusters import cluster_rows
from bytegolf.compression.common_row import split_common_row
from bytegolf.compression.grid import Quantized
from bytegolf.compression.ternary import Binary, Ternary

Int8s = coding.Int8s
#: The distances between all rows are held at once, 4 bytes each.
MOST_ORDERED = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--storage", choices=("stored", "ternary", "binary"), default="stored")
    parser.add_argument("--out", type=Path, default=Path("coders.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(matrices(options.artifact, options.storage))
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {"processor": processor(), "python": platform.python_version()},
        "artifact": {
            "bytes": options.artifact.stat().st_size,
            "sha256": hashlib.sha256(options.artifact.read_bytes()).hexdigest(),
        },
        "storage": options.storage,
        "integers": sum(row["integers"] for row in rows),
        "coders": total(rows),
        "roles": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


def matrices(path: Path, storage: str) -> Iterator[tuple[str, Int8s, int]]:
    """Role, integers (R, C) and their limit of every matrix of the artifact."""
    contents = read_artifact(path)
    for name, tensor in contents.tensors.items():
        if not isinstance(tensor, Quantized):
            continue
        if storage != "stored":
            kind = Ternary() if storage == "ternary" else Binary()
            tensor = kind.quantize(tensor.dequantize())
        yield contents.roles[name], tensor.ints.numpy(), tensor.limit


def coders(limit: int) -> dict[str, Callable[[Int8s], bytes | None]]:
    """By name; None where a coder has nothing to say to a matrix."""

    def clustered(ints_RC: Int8s) -> bytes | None:
        clusters_R = cluster_rows(ints_RC)
        return None if clusters_R is None else ranges.encode_clustered(ints_RC, limit, clusters_R)

    def common(ints_RC: Int8s, encode: Callable[[Int8s], bytes | None]) -> bytes | None:
        found = split_common_row(ints_RC, limit)
        coded = None if found is None else encode(found.ints_RC)
        return None if found is None or coded is None else coding._members(found) + coded

    found: dict[str, Callable[[Int8s], bytes | None]] = {
        "the artifact's choice": lambda ints_RC: coding.encode_ints(ints_RC, limit),
        "context model": lambda ints_RC: ranges.encode(ints_RC, limit),
        "context model, transposed": lambda ints_RC: ranges.encode(turned(ints_RC), limit),
        "context model, rows in clusters": clustered,
        "context model, common row": lambda x: common(x, lambda ints_RC: ranges.encode(ints_RC, limit)),
        "context model, common row and clusters": lambda x: common(x, clustered),
        "brotli 11": lambda ints_RC: compress(ints_RC.tobytes()),
        "brotli 11, rows in order, transposed": ordered,
        "LZMA2": lambda ints_RC: compress_lzma(ints_RC.tobytes()),
    }
    if find_spec("zstandard") is not None:
        import zstandard

        zstd = zstandard.ZstdCompressor(level=22)
        found["zstd 22"] = lambda ints_RC: zstd.compress(ints_RC.tobytes())
    if limit == 1:
        found["trits, then the best compressor"] = lambda x: squeeze(packing.pack_trits(x.reshape(-1)))
        found["trits, then LZMA2"] = lambda x: compress_lzma(packing.pack_trits(x.reshape(-1)))
        found["trits, transposed, then LZMA2"] = lambda x: compress_lzma(
            packing.pack_trits(turned(x).reshape(-1))
        )
        found["mask and signs, then LZMA2"] = lambda x: b"".join(
            map(compress_lzma, packing.pack_mask(x.reshape(-1)))
        )
    return found


def turned(ints_RC: Int8s) -> Int8s:
    """The transposed matrix."""
    return np.ascontiguousarray(ints_RC.T)


def ordered(ints_RC: Int8s) -> bytes | None:
    """Each row followed by the nearest of those left, the order as row numbers of whole bits in front."""
    if len(ints_RC) > MOST_ORDERED:
        return None
    values_RC = ints_RC.astype(np.float32)
    squares_R = np.square(values_RC).sum(axis=1)
    distances_RR = squares_R - 2 * (values_RC @ values_RC.T)
    gone_R = np.zeros(len(ints_RC), dtype=np.float32)
    order = [0]
    for _ in range(1, len(ints_RC)):
        gone_R[order[-1]] = np.inf
        order.append(int((distances_RR[order[-1]] + gone_R).argmin()))
    bits = (len(order) - 1).bit_length() * len(order)
    return bytes(-(-bits // 8)) + compress(turned(ints_RC[order]).tobytes())


def measured(found: Iterator[tuple[str, Int8s, int]]) -> list[dict[str, Any]]:
    """One row a role: integers, entropy, and for each coder bytes and seconds.

    Where a coder has nothing to say to a matrix, the plain context model's bytes count.
    """
    rows: dict[str, dict[str, Any]] = {}
    for role, ints_RC, limit in found:
        row = rows.setdefault(role, {"role": role, "integers": 0, "entropy": 0.0, "coders": {}})
        row["integers"] += ints_RC.size
        row["entropy"] += entropy_bytes(ints_RC)
        plain = len(ranges.encode(ints_RC, limit))
        for name, encode in coders(limit).items():
            began = time.process_time()
            coded = encode(ints_RC)
            sums = row["coders"].setdefault(name, {"bytes": 0, "seconds": 0.0})
            sums["bytes"] += plain if coded is None else len(coded)
            sums["seconds"] += time.process_time() - began
        print(role, ints_RC.shape, flush=True)
    for row in rows.values():
        row["entropy"] = round(row["entropy"])
        for sums in row["coders"].values():
            sums["seconds"] = round(sums["seconds"], 2)
    return list(rows.values())


def entropy_bytes(ints_RC: Int8s) -> float:
    """What a coder needs that knows how often each integer occurs in the matrix, and nothing else."""
    counts = np.unique(ints_RC, return_counts=True)[1]
    return float(-(counts * np.log2(counts / ints_RC.size)).sum() / 8)


def total(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Bytes and seconds of each coder over all roles."""
    sums = {"entropy of single integers": {"bytes": sum(row["entropy"] for row in rows), "seconds": 0.0}}
    for name in rows[0]["coders"]:
        sums[name] = {
            key: round(sum(row["coders"][name][key] for row in rows), 2) for key in ("bytes", "seconds")
        }
    return sums


def table(record: dict[str, Any]) -> str:
    """Markdown, a coder a line."""
    lines = ["| coder | bytes | bits an integer | seconds |", "|---|---|---|---|"]
    for name, sums in record["coders"].items():
        bits = 8 * sums["bytes"] / record["integers"]
        lines.append(f"| {name} | {sums['bytes']:,} | {bits:.3f} | {sums['seconds']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
