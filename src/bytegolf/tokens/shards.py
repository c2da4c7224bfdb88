"""Prepared text: a folder of token shards with a manifest that says exactly what they are.

The manifest is written last, so an interrupted preparation leaves none and is done again. A folder that was
prepared from other text or with another tokenizer is refused, never mixed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bytegolf.errors import ShardError
from bytegolf.files import atomic_write, atomic_writer
from bytegolf.text.documents import Document
from bytegolf.tokens.shard_files import MAX_VOCABULARY, SHARD_TOKENS, ShardCounts, map_shard, write_shards
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.tokenizer import Tokenizer, tokenizer_from_bytes
from bytegolf.tokens.tokenizing import tokenize

__all__ = ["Prepared", "TokenStore", "open_prepared", "prepare"]

Progress = Callable[[int, int], None]
_FORMAT = 1
_HASH_BYTES = 16
_MANIFEST, _TOKENIZER, _VALIDATION_TEXT = "manifest.json", "pieces.tokenizer", "validation.jsonl"
_HASHES = {"training": "training.hashes", "validation": "validation.hashes"}


@dataclass(frozen=True)
class Prepared:
    """A prepared folder, opened."""

    folder: Path
    tokenizer: Tokenizer
    training: TokenStore
    validation: TokenStore
    manifest: dict[str, Any]

    def validation_documents(self) -> list[Document]:
        """The raw held-out documents, in the order of the validation shards."""
        lines = (self.folder / _VALIDATION_TEXT).read_bytes().split(b"\n")
        return [Document(**json.loads(line)) for line in lines if line]

    def training_bytes(self, limit: int) -> bytes:
        """At most `limit` bytes of training text, decoded from documents drawn evenly over the whole."""
        parts, room, stops = [], limit, np.append(self.training.starts[1:], self.training.tokens)
        for index in np.random.default_rng(0).permutation(self.training.documents):
            if room <= 0:
                break
            # Every token but bos stands for at least one byte.
            start = int(self.training.starts[index])
            stop = min(int(stops[index]), start + room + 1)
            parts.append(self.tokenizer.decode(self.training.read(start, stop))[:room])
            room -= len(parts[-1])
        return b"".join(parts)


def prepare(
    folder: Path,
    *,
    training: Iterable[Document],
    validation: Iterable[Document],
    tokenizer: Tokenizer,
    source: dict[str, Any],
    progress: Progress | None = None,
    processes: int = 1,
    shard_tokens: int = SHARD_TOKENS,
) -> Prepared:
    """Tokenizes both splits into `folder`, or opens it if it already holds exactly this.

    `source` says where the documents come from; with the tokenizer's digest it decides whether a folder can
    be used again. `progress(documents, bytes)` is called with what has been read so far. A training
    document equal to a validation document is dropped and counted in the manifest.

    Raises `ShardError` if the folder was prepared differently, cannot be written, or a split is empty.
    """
    source = json.loads(json.dumps(source))
    try:
        if (folder / _MANIFEST).exists():
            _require_same(folder, _read_manifest(folder), source, tokenizer)
            return open_prepared(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        writer = _Writer(
            folder, tokenizer, processes, shard_tokens, progress or (lambda documents, text_bytes: None)
        )
        _write(writer, training, validation, source)
    except OSError as error:
        raise ShardError(
            f"tokens cannot be prepared in {folder} ({error.strerror or error}); "
            "choose a folder you can write to, with room for them"
        ) from error
    return open_prepared(folder)


def open_prepared(folder: Path) -> Prepared:
    """Opens a prepared folder and checks every size and hash, and that no document is in both splits."""
    manifest = _read_manifest(folder)
    try:
        for name, digest in manifest["files"].items():
            _check_file(folder / name, digest)
        tokenizer = tokenizer_from_bytes((folder / _TOKENIZER).read_bytes())
        stores = {}
        for split in _HASHES:
            entries = [entry for entry in manifest["shards"] if entry["split"] == split]
            shards = []
            for entry in entries:
                shards.append(map_shard(folder / entry["file"]))
                _check_file(folder / entry["file"], entry["sha256"])
            text_bytes = sum(entry["bytes"] for entry in entries)
            stores[split] = TokenStore(shards, bos=tokenizer.bos, text_bytes=text_bytes)
        leaked = _common_hashes(*((folder / name).read_bytes() for name in _HASHES.values()))
    except OSError as error:
        raise ShardError(
            f"{folder} cannot be read ({error.strerror or error}); prepare the text again"
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{folder / _MANIFEST} is damaged ({error!r}); delete {folder} and prepare again"
        ) from error
    if leaked:
        raise ShardError(
            f"{leaked} validation documents of {folder} are also training documents; prepare again"
        )
    return Prepared(folder, tokenizer, stores["training"], stores["validation"], manifest)


@dataclass(frozen=True)
class _Writer:
    folder: Path
    tokenizer: Tokenizer
    processes: int
    shard_tokens: int
    progress: Progress

    def split(self, name: str, documents: Iterable[Document], already: tuple[int, int]) -> list[ShardCounts]:
        """Writes one split's shards; `already` (documents, bytes) were counted before it."""
        counted = self._counted(tokenize(documents, self.tokenizer, self.processes), *already)
        shards = write_shards(self.folder, name, counted, self.shard_tokens)
        if not shards:
            raise ShardError(f"there are no {name} documents to prepare; give more text")
        return shards

    def _counted(self, documents: Iterator[Any], count: int, text_bytes: int) -> Iterator[Any]:
        for document in documents:
            count, text_bytes = count + 1, text_bytes + document.bytes
            if count % 100 == 0:
                self.progress(count, text_bytes)
            yield document
        self.progress(count, text_bytes)


def _write(
    writer: _Writer, training: Iterable[Document], validation: Iterable[Document], source: dict
) -> None:
    folder, tokenizer = writer.folder, writer.tokenizer
    if tokenizer.vocabulary > MAX_VOCABULARY:
        raise ShardError(
            f"a vocabulary of {tokenizer.vocabulary} does not fit shards; at most {MAX_VOCABULARY} does"
        )
    atomic_write(folder / _TOKENIZER, tokenizer.to_bytes())
    validation_hashes: list[bytes] = []
    with atomic_writer(folder / _VALIDATION_TEXT) as file:

        def kept(documents: Iterable[Document]) -> Iterator[Document]:
            for document in documents:
                validation_hashes.append(_document_hash(document))
                line = json.dumps({"text": document.text, "id": document.id}, ensure_ascii=False)
                file.write(line.encode() + b"\n")
                yield document

        validation_shards = writer.split("validation", kept(validation), (0, 0))
    held_out, training_hashes, dropped = set(validation_hashes), [], 0

    def not_held_out(documents: Iterable[Document]) -> Iterator[Document]:
        nonlocal dropped
        for document in documents:
            digest = _document_hash(document)
            if digest in held_out:
                dropped += 1
                continue
            training_hashes.append(digest)
            yield document

    already = (len(validation_hashes), sum(shard.bytes for shard in validation_shards))
    training_shards = writer.split("training", not_held_out(training), already)
    atomic_write(folder / _HASHES["validation"], b"".join(validation_hashes))
    atomic_write(folder / _HASHES["training"], b"".join(training_hashes))
    shards = {"training": training_shards, "validation": validation_shards}
    _write_manifest(folder, tokenizer, source, shards, dropped)


def _write_manifest(
    folder: Path, tokenizer: Tokenizer, source: dict, shards: dict[str, list[ShardCounts]], dropped: int
) -> None:
    names = (_TOKENIZER, _VALIDATION_TEXT, *_HASHES.values())
    manifest = {
        "format": _FORMAT,
        "source": source,
        "tokenizer": {"kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary, "digest": tokenizer.digest},
        "totals": {
            split: {
                "tokens": sum(shard.tokens for shard in written),
                "documents": sum(shard.documents for shard in written),
                "bytes": sum(shard.bytes for shard in written),
            }
            for split, written in shards.items()
        },
        "leaked_documents_dropped": dropped,
        "files": {name: _file_digest(folder / name) for name in names},
        "shards": [
            {"split": split, **asdict(shard), "sha256": _file_digest(folder / shard.file)}
            for split, written in shards.items()
            for shard in written
        ],
    }
    atomic_write(folder / _MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise ShardError(f"{folder} holds no prepared text ({error.strerror}); prepare it first") from error
    except ValueError as error:
        raise ShardError(f"{path} is damaged; delete {folder} and prepare again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ShardError(f"{path} is of another format than {_FORMAT}; delete {folder} and prepare again")
    return manifest


def _require_same(
    folder: Path, manifest: dict[str, Any], source: dict[str, Any], tokenizer: Tokenizer
) -> None:
    remedy = f"choose another folder or delete {folder}"
    prepared = manifest.get("source", {})
    for key in sorted(prepared.keys() | source.keys()):
        if prepared.get(key) != source.get(key):
            raise ShardError(
                f"{folder} was prepared from other text: {key} is {prepared.get(key)!r} there and "
                f"{source.get(key)!r} here; {remedy}"
            )
    digest = manifest.get("tokenizer", {}).get("digest")
    if digest != tokenizer.digest:
        raise ShardError(
            f"{folder} was prepared with another tokenizer (digest {str(digest)[:12]}, "
            f"here {tokenizer.digest[:12]}); {remedy}"
        )


def _remove_leftovers(folder: Path) -> None:
    for name in (*(f"{split}_*.bin" for split in _HASHES), *_HASHES.values(), _TOKENIZER, _VALIDATION_TEXT):
        for leftover in [*folder.glob(name), *folder.glob(f".{name}.*")]:
            leftover.unlink()


def _document_hash(document: Document) -> bytes:
    return hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).digest()[:_HASH_BYTES]


def _common_hashes(training: bytes, validation: bytes) -> int:
    # A comparison of halves finds the few candidates without building a set of millions.
    training_halves = np.frombuffer(training, dtype=np.uint64)[::2]
    validation_halves = np.frombuffer(validation, dtype=np.uint64)[::2]
    candidates = np.flatnonzero(np.isin(training_halves, validation_halves))
    whole = {validation[i : i + _HASH_BYTES] for i in range(0, len(validation), _HASH_BYTES)}
    return sum(training[i * _HASH_BYTES : (i + 1) * _HASH_BYTES] in whole for i in candidates.tolist())


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, digest: str) -> None:
    if _file_digest(path) != digest:
        raise ShardError(f"{path} is not as it was prepared; delete {path.parent} and prepare again")
