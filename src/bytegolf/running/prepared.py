"""The tokens of a recipe's text: prepared once, then reused."""

import os
from pathlib import Path
from typing import Any

from bytegolf.recipe import Recipe
from bytegolf.running.progress import Display
from bytegolf.text.readers import source_files
from bytegolf.text.spec import load_text
from bytegolf.tokens.manifest import file_digest
from bytegolf.tokens.shards import Prepared, open_prepared, prepare
from bytegolf.tokens.spec import SentencePiece, TokenizerFile, build_tokenizer
from bytegolf.training.ranks import Ranks
from bytegolf.tree import to_json

#: Below this much text a pool of processes costs more than it saves.
_PARALLEL_BYTES = 20_000_000


def open_data(recipe: Recipe, folder: Path, ranks: Ranks, display: Display) -> Prepared:
    """Training and held-out tokens, made by the leading rank if they are not there yet.

    Raises `ShardError` if the folder holds other text, or another tokenizer's tokens.
    """
    where = Path(recipe.prepared) if recipe.prepared else folder / "data"
    if ranks.leads:
        source = _source(recipe)
        prepared = _reused(where, source)
        if prepared is None:
            display.update("reading text …")
            split = load_text(recipe.text)
            tokenizer = build_tokenizer(recipe.tokens, split.training)
            size = sum(len(document.text) for document in split.training)
            prepared = prepare(
                where,
                training=split.training,
                validation=split.validation,
                tokenizer=tokenizer,
                source=source | {"files": _with_digests(source["files"])},
                progress=lambda documents, done: display.update(f"tokenizing … {documents:,} documents"),
                processes=(os.cpu_count() or 1) if size > _PARALLEL_BYTES else 1,
            )
        ranks.barrier()
    else:
        ranks.barrier()
        prepared = open_prepared(where)
    training, validation = prepared.training, prepared.validation
    display.say(
        f"text     {training.bytes:,} bytes to train on ({training.tokens:,} tokens), "
        f"{validation.bytes:,} held out ({validation.documents:,} documents)"
    )
    return prepared


def _reused(where: Path, source: dict[str, Any]) -> Prepared | None:
    """The folder's tokens if they were made from exactly this; None lets `prepare` decide and explain."""
    if not (where / "manifest.json").exists():
        return None
    prepared = open_prepared(where)
    made_from = prepared.manifest["source"]
    alike = made_from | {"files": []} == source | {"files": []}
    return prepared if alike and _same_files(made_from.get("files", []), source["files"]) else None


def _with_digests(files: list[list[Any]]) -> list[list[Any]]:
    return [[*entry, file_digest(Path(entry[0]))] for entry in files]


def _same_files(prepared: list[list[Any]], found: list[list[Any]]) -> bool:
    """Whether files are the same by path, size and time; a copy's or checkout's other time is looked into.

    An entry of `prepared` has the SHA-256 too; one prepared before these were kept has none.
    """
    return len(prepared) == len(found) and all(
        known[:3] == entry or (known[:2] == entry[:2] and known[3:] == [file_digest(Path(entry[0]))])
        for known, entry in zip(prepared, found, strict=True)
    )


def _source(recipe: Recipe) -> dict[str, Any]:
    """What decides the tokens: the text and tokenizer of the recipe, and the files' sizes and times."""
    tokens = to_json(recipe.tokens)
    if isinstance(recipe.tokens, SentencePiece) and not recipe.tokens.casing:
        del tokens["casing"]  # Folders prepared before there was a choice can still be used.
    return {
        "text": to_json(recipe.text),
        "tokens": tokens,
        "files": _files(recipe),
    }


def _files(recipe: Recipe) -> list[list[Any]]:
    """Path, size and time of every file that the tokens depend on."""
    paths = [path for name in (*recipe.text.sources, *recipe.text.validation) for path in source_files(name)]
    if isinstance(recipe.tokens, TokenizerFile):
        paths += source_files(recipe.tokens.path) if recipe.tokens.path != "bytes" else []
    found = []
    for path in paths:
        status = path.stat()
        found.append([str(path), status.st_size, status.st_mtime_ns])
    return found
