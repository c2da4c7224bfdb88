"""The manifest of a prepared folder, read without trusting it.

Format 2 added the sketch of the training text's 13-grams; a folder of format 1 opens, without one.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from bytegolf.errors import ShardError

FORMAT = 2
_READABLE = (1, FORMAT)

MANIFEST, TOKENIZER, VALIDATION_TEXT = "manifest.json", "pieces.tokenizer", "validation.jsonl"
#: SHA-256 of every document's text, cut to HASH_BYTES, in the order of the shards.
HASHES = {"training": "training.hashes", "validation": "validation.hashes"}
HASH_BYTES = 16
SKETCH = "training.sketch"

# Names in a manifest never lead out of its folder.
_NAME = re.compile(r"[a-z0-9_]{1,80}\.[a-z]{1,20}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_COUNTS = ("tokens", "documents", "bytes")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, with every field that this program uses present and of its type.

    Raises `ShardError` if there is none, or it is damaged, of another format, or contradicts itself.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise ShardError(f"{folder} holds no prepared text ({error.strerror}); prepare it first") from error
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is damaged; delete {folder} and prepare again") from error
    if not isinstance(manifest, dict) or manifest.get("format") not in _READABLE:
        raise ShardError(f"{path} is of another format than {FORMAT}; delete {folder} and prepare again")
    if not _is_sound(manifest):
        raise ShardError(f"{path} is damaged; delete {folder} and prepare again")
    return manifest


def require_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Every file that the manifest names is there, and is a file, not a device that never ends."""
    for name in (*manifest["files"], *(entry["file"] for entry in manifest["shards"])):
        if not (folder / name).is_file():
            raise ShardError(f"{folder / name} is missing; delete {folder} and prepare again")


def check_file(path: Path, digest: str) -> None:
    """Raises `ShardError` if the file's SHA-256 is another."""
    if file_digest(path) != digest:
        raise ShardError(f"{path} is not as it was prepared; delete {path.parent} and prepare again")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_sound(manifest: dict[str, Any]) -> bool:
    files, shards, totals = (manifest.get(key) for key in ("files", "shards", "totals"))
    if not (isinstance(files, dict) and isinstance(shards, list) and isinstance(totals, dict)):
        return False
    expected = {TOKENIZER, VALIDATION_TEXT, *HASHES.values()} | (
        {SKETCH} if manifest["format"] > 1 else set()
    )
    if not (expected <= files.keys() and all(map(_is_entry, files, files.values()))):
        return False
    if not (all(map(_is_shard, shards)) and totals.keys() == HASHES.keys()):
        return False
    for split, total in totals.items():
        own = [entry for entry in shards if entry["split"] == split]
        if not own or total != {count: sum(entry[count] for entry in own) for count in _COUNTS}:
            return False
    return isinstance(manifest.get("source"), dict) and isinstance(manifest.get("tokenizer"), dict)


def _is_entry(name: Any, digest: Any) -> bool:
    if not (isinstance(name, str) and isinstance(digest, str)):
        return False
    return _NAME.fullmatch(name) is not None and _DIGEST.fullmatch(digest) is not None


def _is_shard(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.get("split") in tuple(HASHES)
        and all(type(entry.get(count)) is int and entry[count] >= 0 for count in _COUNTS)
        and _is_entry(entry.get("file"), entry.get("sha256"))
    )
