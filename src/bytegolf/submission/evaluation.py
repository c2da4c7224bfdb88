"""What `train_gpt.py` does by default: scores the model that was shipped beside it.

The score is taken by the code of every other score, `evaluation.bits`; only files and words are added here.
"""

import glob
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bytegolf.artifact.container import read_artifact
from bytegolf.artifact.loading import unpack_model
from bytegolf.errors import ArtifactError, ShardError
from bytegolf.evaluation.adaptation import Adaptation
from bytegolf.evaluation.bits import Score, score, token_stream
from bytegolf.evaluation.windows import WindowPlan
from bytegolf.text.documents import Document, text_digest
from bytegolf.text.readers import read_documents
from bytegolf.text.spec import Text, load_text
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.tokenizer import Tokenizer
from bytegolf.training.ranks import chosen_device
from bytegolf.tree import from_json

#: Bits per byte by which a score may differ from the recorded one: on the same kind of machine, and on any.
_SAME, _OTHER_MACHINE = 1e-4, 2e-3
_DIFFERS = 1


def evaluate(
    artifact: Path,
    *,
    text: tuple[str, ...] = (),
    validation: tuple[str, ...] = (),
    shards: tuple[str, ...] = (),
    every: bool = False,
    device: str = "auto",
) -> int:
    """Prints the bits per byte of an artifact; returns 0, or 1 if they are not those of submission.json.

    Scored is what the run held out: `text` and `validation` say where the recipe's sources of these names lie
    now. `shards`: files or patterns of token shards to score instead. `every`: by every plan of the recipe,
    where by default only the submitted score is taken. Without a submission.json beside the artifact, or with
    other text than the run's, there is nothing to compare with.
    Raises `ArtifactError` if the artifact is damaged or not the submitted one, and `BytegolfError`s for text.
    """
    recorded = _recorded(artifact.parent / "submission.json")
    expected = recorded.get("artifact_sha256")
    if expected is not None and hashlib.sha256(artifact.read_bytes()).hexdigest() != expected:
        raise ArtifactError(f"{artifact} is not the file that submission.json was written for; copy it again")
    contents = read_artifact(artifact)
    loaded = unpack_model(contents, str(artifact), chosen_device(device))
    stream = _stream(contents.recipe, loaded.tokenizer, text, validation, shards)
    if recorded and stream.digest not in (None, recorded.get("validation_sha256")):
        print("this is not the text of the submission, so its score is compared with nothing")
        recorded = {}
    outcome = 0
    for plan, adaptation in submitted_passes(contents.recipe, every=every):
        result = score(
            loaded.model,
            loaded.tokenizer,
            stream.ids,
            stream.starts,
            plan,
            adaptation=adaptation,
            watch=_watch,
        )
        outcome = max(outcome, _report(result, recorded))
    return outcome


def submitted_passes(
    recipe: dict[str, Any], *, every: bool = False
) -> Iterator[tuple[WindowPlan, Adaptation | None]]:
    """How a recipe's artifact is scored: the submitted score first, and with `every` all others.

    That is the one that learns from the text, where the recipe has an adaptation, else its first plan's.
    """
    evaluation = recipe["evaluation"]
    plans = from_json(tuple[WindowPlan, ...], evaluation["plans"], "evaluation.plans")
    data = evaluation.get("adaptation")
    adaptation = None if data is None else from_json(Adaptation, data, "evaluation.adaptation")
    fixed = [(plan, None) for plan in plans]
    passes = [(plans[0], adaptation), *fixed] if adaptation is not None else fixed
    yield from passes if every else passes[:1]


@dataclass(frozen=True, eq=False)
class _Stream:
    """Tokens to score: ids (N + 1,) and the offsets of documents' starts. digest: of the text, if known."""

    ids: np.ndarray
    starts: np.ndarray
    digest: str | None


def _stream(
    recipe: dict[str, Any],
    tokenizer: Tokenizer,
    text: tuple[str, ...],
    validation: tuple[str, ...],
    shards: tuple[str, ...],
) -> _Stream:
    if shards:
        store = TokenStore.from_files(_shard_files(shards), tokenizer)
        # The last document's end is a target too, as in text.
        ids = np.append(store.read(0, store.tokens).astype(np.int64), tokenizer.bos)
        return _Stream(ids, store.starts, None)
    spec = moved(from_json(Text, recipe["text"], "text"), text, validation)
    documents = held_out(spec)
    ids, starts = token_stream(tokenizer, [document.text for document in documents])
    return _Stream(ids, starts, text_digest(documents))


def moved(spec: Text, text: tuple[str, ...], validation: tuple[str, ...]) -> Text:
    """The same text, whose sources lie elsewhere: empty keeps what the recipe says."""
    return replace(spec, sources=text or spec.sources, validation=validation or spec.validation)


def held_out(spec: Text) -> Sequence[Document]:
    """What a run scores. With validation sources, the training text need not be there."""
    if not spec.validation:
        return load_text(spec).validation
    return list(read_documents(spec.validation, field=spec.field, cut_bytes=spec.cut_bytes))


def _shard_files(names: Sequence[str]) -> list[Path]:
    """The files that the patterns stand for, less those of byte counts that lie beside some tokens."""
    found = [Path(path) for name in names for path in (sorted(glob.glob(name)) or [name])]
    tokens = [path for path in found if "_bytes_" not in path.name]
    if not tokens:
        raise ShardError(f"{', '.join(names)} names byte counts only; name shards of tokens")
    return tokens


def _recorded(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON ({error}); copy the submission again") from error
    return data if isinstance(data, dict) else {}


def _report(result: Score, recorded: dict[str, Any]) -> int:
    """One line with the score, and one with what submission.json says of it."""
    print(
        f"val_bpb:{result.bits_per_byte:.8f} val_loss:{result.nats_per_token:.8f} tokens:{result.tokens} "
        f"bytes:{result.bytes} eval_time:{1000 * result.seconds:.0f}ms plan:{result.plan}",
        flush=True,
    )
    counts = (result.plan, result.tokens, result.bytes)
    for row in recorded.get("scores", ()):
        if row["model"] == "artifact" and (row["plan"], row["tokens"], row["bytes"]) == counts:
            return _compare(result.bits_per_byte, float(row["bits_per_byte"]))
    return 0


def _compare(found: float, said: float) -> int:
    difference = abs(found - said)
    if difference <= _SAME:
        verdict = "reproduced"
    elif difference <= _OTHER_MACHINE:
        verdict = f"differs by {difference:.1e}, as another kind of machine may"
    else:
        verdict = f"NOT REPRODUCED: differs by {difference:.4f}"
    print(f"submission.json says {said:.8f}: {verdict}", flush=True)
    return 0 if difference <= _OTHER_MACHINE else _DIFFERS


def _watch(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rscoring {100 * done // max(total, 1)} %", end="\r", file=sys.stderr, flush=True)
