"""The tokens of a recipe's text: prepared once, then reused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bytegolf.recipe import Recipe
from bytegolf.running.progress import Display
from bytegolf.text.readers import source_files
from bytegolf.tokens.making import TokensToMake, made_meanwhile, make_tokens
from bytegolf.tokens.manifest import file_digest
from bytegolf.tokens.shards import Prepared, open_prepared
from bytegolf.tokens.spec import SentencePiece, TokenizerFile
from bytegolf.training.ranks import Ranks
from bytegolf.tree import to_json


def open_data(
    recipe: Recipe,
    folder: Path,
    ranks: Ranks,
    display: Display,
    *,
    meanwhile: Callable[[], None] | None = None,
) -> Prepared:
    """Training and held-out tokens, made by the leading rank if they are not there yet.

    `meanwhile` is run by every rank while they are made, in a process of their own then; where they are there
    already it is not.

    Raises `ShardError` if the folder holds other text, or another tokenizer's tokens.
    """
    where = Path(recipe.prepared) if recipe.prepared else folder / "data"
    source = _source(recipe) if ranks.leads else {}
    prepared = _reused(where, source) if ranks.leads else None
    missing = ranks.from_lead("" if prepared else "missing")
    if missing and ranks.leads:
        job = TokensToMake(recipe.text, recipe.tokens, where, source)
        if meanwhile is None:
            prepared = make_tokens(job, display.update)
        else:
            with made_meanwhile(job, display.update):
                meanwhile()
    elif missing and meanwhile is not None:
        meanwhile()
    ranks.barrier()
    if prepared is None:
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
