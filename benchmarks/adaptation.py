"""Scores a text with an artifact in every way: windows, and learning while scoring; gains and costs of each.

    python benchmarks/adaptation.py ARTIFACT TEXT… [--length L --stride S] [--out RECORD.json]
    python benchmarks/adaptation.py ARTIFACT TEXT… --published --lora-rates --sgd-rates
    python benchmarks/adaptation.py ARTIFACT TEXT… --also '{"type": "DocumentLora", "rank": 32}'

`--published` adds the settings of the 16 MB challenge's late entries, part by part. Gains are against sliding
windows without learning. Every way is a session of its own, whose ledger must be complete; the record holds
its totals, and how many targets were given away to learn from.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bytegolf.evaluation.adaptation import Adaptation, DocumentLora, MatchModel, Phases, ScoreFirstSgd
from bytegolf.evaluation.bits import score_session, token_stream
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.passes import Watch, fitted
from bytegolf.evaluation.windows import Chunked, PerDocument, Plan, Sliding
from bytegolf.model.roles import Role
from bytegolf.running.environment import describe_environment
from bytegolf.running.progress import Display
from bytegolf.serving.artifact import Artifact, open_artifact
from bytegolf.text.readers import read_documents
from bytegolf.tokens.ledger import bits_per_byte
from bytegolf.tree import from_json, to_json

#: Tokens that are scored in every way before its time is taken, for what happens once in a process.
_WARM_TOKENS = 20_000


@dataclass(frozen=True)
class Way:
    """A way to score: windows, and what learns, if anything does."""

    plan: Plan
    adaptation: Adaptation | None = None

    @property
    def windows(self) -> Plan:
        """The windows that are used: an adaptation may have its own."""
        return self.plan if self.adaptation is None else self.adaptation.plan(self.plan)


class CountingSession(Session):
    """A session that counts the targets it gave away to learn from."""

    released = 0

    def release(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.released += stop - first
        return super().release(first, stop)


def ways(
    length: int,
    stride: int,
    loras: Sequence[DocumentLora],
    sgds: Sequence[ScoreFirstSgd],
    match_models: Sequence[MatchModel] = (),
) -> Iterator[Way]:
    """Sliding windows first, which the others are held against."""
    yield Way(Sliding(length, stride))
    yield Way(Chunked(length))
    yield Way(PerDocument(length, stride))
    seen: set[str] = set()
    for spec in loras:
        plan = spec.plan(Chunked(length))
        if plan.name not in seen:
            # The same contexts without learning, so that what learning gives can be told from the windows.
            yield Way(plan)
        seen.add(plan.name)
        yield Way(Chunked(length), spec)
    for spec in [*sgds, *match_models]:
        yield Way(Sliding(length, stride), spec)


def published(length: int, documents: int) -> Iterator[DocumentLora]:
    """Adapters and phases as in #1855 and #2143, in windows of `length`; then with parts changed.

    There 2,500 documents of 50,000 are learned from in phases, the longest; of few documents the first two
    thirds are, in the order of the text.
    """
    full = DocumentLora(
        rank=80,
        alpha=144.0,
        targets=(
            Role.ATTENTION_QUERY,
            Role.ATTENTION_KEY,
            Role.ATTENTION_VALUE,
            Role.ATTENTION_OUT,
            Role.MLP_DOWN,
            Role.HEAD,
        ),
        chunk=min(48, length),
        length=length,
        learning_rate=1e-4,
        beta1=0.0,
        beta2=0.99,
        epsilon=1e-10,
        weight_decay=0.5,
        per_pass=True,
        context="kept",
    )
    yield full
    yield replace(full, per_pass=False)
    yield replace(full, targets=tuple(role for role in full.targets if role != Role.MLP_DOWN))
    yield replace(full, warm_start=64)
    yield replace(full, learning_rate=3e-4)
    yield replace(full, learning_rate=1e-3)
    phases = Phases(prefix=max(3, documents), count=3, order="text")
    phases = replace(phases, sgd=replace(phases.sgd, length=length, rows=max(1, 65_536 // length)))
    yield replace(full, phases=phases)
    yield replace(full, phases=replace(phases, order="longest", prefix=max(3, documents // 20)))
    yield replace(full, context="reread")


def measure(
    artifact: Artifact, ids: np.ndarray, starts: np.ndarray, way: Way, watch: Watch
) -> dict[str, Any]:
    """One session from beginning to end, as plain data."""
    track = Track.fixed() if way.adaptation is None else Track.adaptive()
    session = CountingSession(artifact.tokenizer, ids, starts, track)
    began = time.perf_counter()
    with torch.no_grad(), fitted(artifact.model, way.windows.length):
        windows = way.windows.windows(starts, session.targets)
        score_session(artifact.model, session, windows, adaptation=way.adaptation, watch=watch)
    seconds = time.perf_counter() - began
    ledger = session.close()
    return {
        "plan": way.windows.name,
        "adaptation": None if way.adaptation is None else to_json(way.adaptation),
        "bits_per_byte": bits_per_byte(ledger.total_nats, ledger.total_bytes),
        "seconds": seconds,
        "tokens_per_second": ledger.tokens / seconds,
        "ledger": {
            "nats": ledger.total_nats,
            "bytes": ledger.total_bytes,
            "targets": ledger.tokens,
            "passes": int(ledger.passes.max()) + 1,
            "released": session.released,
        },
    }


def record(
    artifact: Artifact, texts: Sequence[str], tried: Sequence[Way], display: Display, *, warm: bool = True
) -> dict[str, Any]:
    """All ways over the same texts; gains in bits per byte over the first way, which is sliding windows."""
    ids, starts = token_stream(artifact.tokenizer, texts)
    rows: list[dict[str, Any]] = []
    for way in tried:
        if warm and len(ids) > _WARM_TOKENS:
            part = ids[: _WARM_TOKENS + 1]
            measure(artifact, part, starts[starts < _WARM_TOKENS], way, lambda done, total: None)
        row = measure(artifact, ids, starts, way, display.counting(f"{way.windows.name} …"))
        base = rows[0] if rows else row
        row["gain_over_sliding"] = base["bits_per_byte"] - row["bits_per_byte"]
        row["seconds_over_sliding"] = row["seconds"] / base["seconds"]
        rows.append(row)
    return {
        "machine": describe_environment(),
        "artifact": {"sha256": artifact.digest.hex(), "recipe": artifact.recipe.get("name")},
        "precision": str(artifact.model.compute_dtype).removeprefix("torch."),
        "documents": len(texts),
        "rows": rows,
    }


def table(found: dict[str, Any]) -> Table:
    """The record's rows for people."""
    shown = Table(box=None)
    for heading in ("windows", "learning", "bits/byte", "gain", "seconds", "tokens/s", "learned from"):
        shown.add_column(heading, no_wrap=heading != "learning")
    for row in found["rows"]:
        spec, ledger = row["adaptation"], row["ledger"]
        learning = "" if spec is None else described(spec)
        numbers = f"{row['bits_per_byte']:.4f}", f"{row['gain_over_sliding']:+.4f}", f"{row['seconds']:.1f}"
        speed, share = f"{row['tokens_per_second']:,.0f}", f"{ledger['released'] / ledger['targets']:.0%}"
        shown.add_row(row["plan"], learning, *numbers, speed, share if learning else "")
    return shown


def described(spec: dict[str, Any]) -> str:
    """An adaptation's class, and what of its settings is not the default."""
    if spec["type"] == "MatchModel":
        return "MatchModel" if spec["learner"] is None else f"MatchModel, {described(spec['learner'])}"
    default = to_json({kind.__name__: kind for kind in (DocumentLora, ScoreFirstSgd)}[spec["type"]]())
    other = {name: value for name, value in spec.items() if value != default[name]}
    for name, value in other.items():
        if isinstance(value, dict):
            parts = (part for key, part in value.items() if key != "type" and not isinstance(part, dict))
            other[name] = "/".join(map(str, parts))
        elif isinstance(value, list):
            other[name] = len(value)
    rate = spec["learning_rate"]
    shown = "".join(f", {name} {value}" for name, value in other.items() if name != "learning_rate")
    return f"{spec['type']} {rate:g}{shown}"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", nargs="+")
    parser.add_argument("--length", type=int, help="tokens of a window; that of training, if not given")
    parser.add_argument("--stride", type=int, default=64)
    parser.add_argument("--chunk", type=int, default=256, help="targets between two steps of the adapters")
    parser.add_argument("--lora-rates", type=float, nargs="*", default=[0.01, 0.001])
    parser.add_argument("--sgd-rates", type=float, nargs="*", default=[0.002])
    parser.add_argument("--sgd-chunk", type=int, default=32_768, help="targets between two times to learn")
    parser.add_argument("--published", action="store_true", help="the challenge's settings, part by part")
    parser.add_argument("--also", nargs="*", default=[], help="adaptations as JSON, to be tried too")
    parser.add_argument("--cut-bytes", type=int, default=0, help="see `bytegolf evaluate`")
    parser.add_argument("--documents", type=int, help="only the first so many documents")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("adaptation.json"))
    options = parser.parse_args(words)
    artifact = open_artifact(options.artifact, device=options.device)
    length = options.length or artifact.context
    lora = DocumentLora(chunk=min(options.chunk, length), length=length)
    loras = [replace(lora, learning_rate=rate) for rate in options.lora_rates]
    sgd = ScoreFirstSgd(length=length, chunk=options.sgd_chunk)
    sgds = [replace(sgd, learning_rate=rate) for rate in options.sgd_rates]
    documents = list(read_documents(tuple(options.text), cut_bytes=options.cut_bytes))[: options.documents]
    if options.published:
        loras += published(length, len(documents))
    also = [from_json(Adaptation, json.loads(data)) for data in options.also]
    loras += [spec for spec in also if isinstance(spec, DocumentLora)]
    sgds += [spec for spec in also if isinstance(spec, ScoreFirstSgd)]
    match_models = [spec for spec in also if isinstance(spec, MatchModel)]
    tried = list(ways(length, options.stride, loras, sgds, match_models))
    display = Display(Console(stderr=True))
    with display.line():
        found = record(artifact, [document.text for document in documents], tried, display)
    Console(width=120).print(table(found))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
