"""What a run ran on: machine, versions, and the hash of the program's own source."""

import hashlib
import importlib.metadata
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bytegolf import __version__

_IMPORTED = time.perf_counter()
_PACKAGES = (
    "torch",
    "numpy",
    "sentencepiece",
    "constriction",
    "brotli",
    "triton",
    "zstandard",
    "flash-attn-4",
)


def describe_environment() -> dict[str, Any]:
    """Plain data for environment.json."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "package_version": __version__,
        "source_sha256": source_hash(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def source_hash() -> str:
    """SHA-256 over the package's Python files, names and contents, in sorted order."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def seconds_since_start() -> float:
    """Seconds since the operating system started this process, imports included."""
    try:
        return time.time() - Path("/proc/self").stat().st_ctime
    except OSError:
        return time.perf_counter() - _IMPORTED


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
