"""Prepared text: a folder of token shards with a manifest that says exactly what they are.

The manifest is written last, so an interrupted preparation leaves none and is done again. A folder that was
prepared from other text or with another tokenizer is refused, never mixed. Beside the shards lie a hash of
every document and a sketch of the 13-grams trained on, by which `tokens.cleanliness` checks a split later.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bytegolf.errors import ShardError
from bytegolf.files import atomic_write, atomic_writer
from bytegolf.text.documents import Document
from bytegolf.tokens.manifest import (
    FORMAT,
    HASH_BYTES,
    HASHES,
    MANIFEST,
    SKETCH,
    TOKENIZER,
    VALIDATION_TEXT,
    check_file,
    file_digest,
    read_manifest,
    require_files,
)
from bytegolf.tokens.shard_files import MAX_VOCABULARY, SHARD_TOKENS, ShardCounts, map_shard, write_shards
from bytegolf.tokens.store import TokenStore, require_known_ids
from bytegolf.tokens.tokenizer import Tokenizer, tokenizer_from_bytes
from bytegolf.tokens.tokenizing import Sketch, tokenize

__all__ = ["Prepared", "TokenStore", "open_prepared", "prepare"]

Progress = Callable[[int, int], None]


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
        path = self.folder / VALIDATION_TEXT
        documents = []
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                fields = json.loads(line)
                documents.append(Document(text=str(fields["text"]), id=str(fields["id"])))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ShardError(f"{path} is damaged; delete {self.folder} and prepare again") from error
        return documents

    def training_bytes(self, limit: int) -> bytes:
        """At most `limit` bytes of training text, decoded from documents drawn evenly over the whole."""
        parts, room, stops = [], limit, np.append(self.training.starts[1:], self.training.tokens)
        for index in np.random.default_rng(0).permutation(self.training.documents):
            if room <= 0:
                break
            # Every token but bos stands for at least one byte, or marks a capital of one that does.
            start = int(self.training.starts[index])
            stop = min(int(stops[index]), start + 2 * room + 1)
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
        if (folder / MANIFEST).exists():
            _require_same(folder, read_manifest(folder), source, tokenizer)
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
    manifest = read_manifest(folder)
    require_files(folder, manifest)
    try:
        stores = {}
        for name, digest in manifest["files"].items():
            check_file(folder / name, digest)
        tokenizer = tokenizer_from_bytes((folder / TOKENIZER).read_bytes())
        for split in HASHES:
            entries = [entry for entry in manifest["shards"] if entry["split"] == split]
            stores[split] = _open_split(folder, entries, tokenizer)
        leaked = _common_hashes(*(_read_hashes(folder / name) for name in HASHES.values()))
    except OSError as error:
        raise ShardError(
            f"{folder} cannot be read ({error.strerror or error}); prepare the text again"
        ) from error
    if leaked:
        raise ShardError(
            f"{leaked} validation documents of {folder} are also training documents; prepare again"
        )
    return Prepared(folder, tokenizer, stores["training"], stores["validation"], manifest)


def document_hash(document: Document) -> bytes:
    """What stands for a document in a prepared folder's lists of hashes."""
    return hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).digest()[:HASH_BYTES]


def _open_split(folder: Path, entries: list[dict[str, Any]], tokenizer: Tokenizer) -> TokenStore:
    shards = []
    for entry in entries:
        path = folder / entry["file"]
        shards.append(map_shard(path))
        check_file(path, entry["sha256"])
        require_known_ids(path, shards[-1], tokenizer)
    store = TokenStore(shards, bos=tokenizer.bos, text_bytes=sum(entry["bytes"] for entry in entries))
    counted = (store.tokens, store.documents)
    claimed = tuple(sum(entry[count] for entry in entries) for count in ("tokens", "documents"))
    if counted != claimed:
        raise ShardError(
            f"{folder} holds {counted} tokens and documents where its manifest says {claimed}; prepare again"
        )
    return store


@dataclass(frozen=True)
class _Writer:
    folder: Path
    tokenizer: Tokenizer
    processes: int
    shard_tokens: int
    progress: Progress

    def split(
        self, name: str, documents: Iterable[Document], already: tuple[int, int], sketch: Sketch
    ) -> list[ShardCounts]:
        """Writes one split's shards; `already` (documents, bytes) were counted before it."""
        tokenized = tokenize(documents, self.tokenizer, self.processes, sketch)
        counted = self._counted(tokenized, *already)
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
    atomic_write(folder / TOKENIZER, tokenizer.to_bytes())
    validation_hashes: list[bytes] = []
    with atomic_writer(folder / VALIDATION_TEXT) as file:

        def kept(documents: Iterable[Document]) -> Iterator[Document]:
            for document in documents:
                validation_hashes.append(document_hash(document))
                line = json.dumps({"text": document.text, "id": document.id}, ensure_ascii=False)
                file.write(line.encode() + b"\n")
                yield document

        validation_shards = writer.split("validation", kept(validation), (0, 0), Sketch())
    held_out, training_hashes, dropped = set(validation_hashes), [], 0

    def not_held_out(documents: Iterable[Document]) -> Iterator[Document]:
        nonlocal dropped
        for document in documents:
            digest = document_hash(document)
            if digest in held_out:
                dropped += 1
                continue
            training_hashes.append(digest)
            yield document

    already = (len(validation_hashes), sum(shard.bytes for shard in validation_shards))
    sketch = Sketch()
    training_shards = writer.split("training", not_held_out(training), already, sketch)
    atomic_write(folder / HASHES["validation"], b"".join(validation_hashes))
    atomic_write(folder / HASHES["training"], b"".join(training_hashes))
    atomic_write(folder / SKETCH, sketch.to_bytes())
    shards = {"training": training_shards, "validation": validation_shards}
    _write_manifest(folder, tokenizer, source, shards, dropped)


def _write_manifest(
    folder: Path, tokenizer: Tokenizer, source: dict, shards: dict[str, list[ShardCounts]], dropped: int
) -> None:
    names = (TOKENIZER, VALIDATION_TEXT, *HASHES.values(), SKETCH)
    manifest = {
        "format": FORMAT,
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
        "files": {name: file_digest(folder / name) for name in names},
        "shards": [
            {"split": split, **asdict(shard), "sha256": file_digest(folder / shard.file)}
            for split, written in shards.items()
            for shard in written
        ],
    }
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _require_same(
    folder: Path, manifest: dict[str, Any], source: dict[str, Any], tokenizer: Tokenizer
) -> None:
    remedy = f"choose another folder or delete {folder}"
    prepared = manifest["source"]
    for key in sorted(prepared.keys() | source.keys()):
        there, here = _first_difference(prepared.get(key), source.get(key))
        if there != here:
            raise ShardError(
                f"{folder} was prepared from other text: {key} is {there!r} there and {here!r} here; {remedy}"
            )
    digest = manifest["tokenizer"].get("digest")
    if digest != tokenizer.digest:
        raise ShardError(
            f"{folder} was prepared with another tokenizer (digest {str(digest)[:12]}, "
            f"here {tokenizer.digest[:12]}); {remedy}"
        )


def _first_difference(there: Any, here: Any) -> tuple[Any, Any]:
    """Both, or of two lists the first entries that differ: nobody reads those of ten thousand files."""
    if isinstance(there, list) and isinstance(here, list):
        return next(((a, b) for a, b in itertools.zip_longest(there, here) if a != b), (None, None))
    return there, here


def _remove_leftovers(folder: Path) -> None:
    shards = (f"{split}_*.bin" for split in HASHES)
    for name in (*shards, *HASHES.values(), SKETCH, TOKENIZER, VALIDATION_TEXT):
        for leftover in [*folder.glob(name), *folder.glob(f".{name}.*")]:
            leftover.unlink()


def _read_hashes(path: Path) -> bytes:
    hashes = path.read_bytes()
    if len(hashes) % HASH_BYTES:
        raise ShardError(f"{path} is no list of hashes; delete {path.parent} and prepare again")
    return hashes


def _common_hashes(training: bytes, validation: bytes) -> int:
    # A comparison of halves finds the few candidates without building a set of millions.
    training_halves = np.frombuffer(training, dtype=np.uint64)[::2]
    validation_halves = np.frombuffer(validation, dtype=np.uint64)[::2]
    candidates = np.flatnonzero(np.isin(training_halves, validation_halves))
    whole = {validation[i : i + HASH_BYTES] for i in range(0, len(validation), HASH_BYTES)}
    return sum(training[i * HASH_BYTES : (i + 1) * HASH_BYTES] in whole for i in candidates.tolist())
