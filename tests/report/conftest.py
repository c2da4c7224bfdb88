# ruff: noqa: E501
"""A run folder as training leaves it, with figures made up by formulas."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

TEXT = (
    "In the beginning God created the heaven and the earth.\n"
    "And the earth was without form, and void; and darkness was upon the face of the deep. "
    "And the Spirit of God moved upon the face of the waters.\n"
    "And God said, Let there be light: and there was light.\n"
    "And God saw the light, that it was good: and God divided the light from the darkness.\n"
    "And God called the light Day, and the darkness he called Night. "
    "And the evening and the morning were the first day.\n"
)


def metrics(steps: int = 400, seconds: float = 240.0) -> list[dict[str, Any]]:
    generator = random.Random(3)
    lines: list[dict[str, Any]] = [{"event": "stage", "step": 0, "seconds": 0.0, "name": "warm-up"}]
    for step in range(1, steps + 1):
        share, at = step / steps, 8 + (seconds - 8) * step / steps
        loss = 2.9 + 5.5 * math.exp(-14 * share) - 0.5 * share + generator.gauss(0, 0.05)
        common = {"step": step, "tokens": step * 8192, "seconds": at}
        rates = {"tokens_per_second": 13_500 + generator.gauss(0, 300) - (2500 if 150 < step < 170 else 0)}
        shape = {
            "learning_rate": min(1.0, share * 20, 2 * (1 - share)),
            "gradient_norm": 0.4 + 3 / (1 + step / 9),
        }
        lines.append(
            {"event": "train", **common, "loss": loss, "bits_per_byte": loss * 0.53, **rates, **shape}
        )
        if step % 50 == 0:
            held_out = {"loss": loss + 0.06, "bits_per_byte": (loss + 0.06) * 0.53}
            lines.append({"event": "validation", **common, **held_out})
        if step == int(0.7 * steps):
            lines.append({"event": "stage", "step": step, "seconds": at, "name": "quantization-aware"})
    return lines


def result() -> dict[str, Any]:
    parts = {
        "header": 2_911, "tokenizer": 9_870, "embedding ints": 171_022, "attention_query ints": 52_233,
        "attention_key ints": 26_300, "attention_value ints": 27_811, "attention_out ints": 53_902,
        "mlp_up ints": 214_776, "mlp_down ints": 220_341, "scales": 21_544, "scalar": 1_876, "checksum": 32,
    }  # fmt: skip
    total = sum(parts.values())
    score = {"tokens": 121_002, "bytes": 350_112, "seconds": 14.2}
    return {
        "recipe": "pocket",
        "seed": 7,
        "date": "2026-11-22T06:40:12+00:00",
        "machine": {"cpu": "Example CPU", "cores": 2},
        "artifact": {
            "path": "artifact.bg", "bytes": total, "sha256": "9f" * 32, "challenge_bytes": total + 14_000,
            "source_bytes": 23_870, "budget_bytes": 1_000_000,
            "account": [{"part": part, "bytes": size} for part, size in parts.items()],
        },
        "training": {
            "steps": 400, "tokens": 3_276_800, "seconds": 240.0, "tokens_per_second": 13_653.0,
            "first_step_seconds": 1.9, "parameters": 2_211_840,
        },
        "data": {
            "training_bytes": 3_861_442, "training_documents": 1_090, "training_tokens": 1_331_007,
            "validation_bytes": 350_112, "validation_documents": 99, "validation_tokens": 121_002,
            "tokenizer": "sentencepiece", "vocabulary": 1024,
        },
        "scores": [
            {"model": "float", "plan": "sliding 128 of 256", "bits_per_byte": 1.3779, "nats_per_token": 2.7636, **score},
            {"model": "artifact", "plan": "sliding 128 of 256", "bits_per_byte": 1.3821, "nats_per_token": 2.772, **score},
            {"model": "artifact", "plan": "chunked 256", "bits_per_byte": 1.4312, "nats_per_token": 2.8705, **score},
        ],
        "baselines": [
            {"name": "xz -9e", "bytes": 96_764, "bits_per_byte": 2.2111},
            {"name": "brotli 11", "bytes": 95_199, "bits_per_byte": 2.1753},
            {"name": "zstd 22", "bytes": 97_921, "bits_per_byte": 2.2375},
            {"name": "zstd 22 + trained dictionary of 802,618 bytes", "bytes": 82_301, "bits_per_byte": 1.8806},
        ],
        "plan": [
            {"role": "embedding", "bits": 8, "clip": {"type": "LeastSquares", "candidates": [0.8, 0.9, 1.0]}, "bytes": 171_022},
            {"role": "attention_query", "bits": 6, "clip": "AbsMax", "bytes": 52_233},
            {"role": "mlp_up", "bits": 5, "clip": {"type": "StandardDeviations", "k": 3.5}, "bytes": 214_776},
            {"role": "mlp_down", "bits": 5, "clip": {"type": "StandardDeviations", "k": 3.5}, "bytes": 220_341},
        ],
        "samples": [
            {"prompt": "And it came to pass", "text": ", when the king of Assyria heard the words of the LORD,\n"
             "that he sent unto the house of the Lord, and the people that were with him."},
            {"prompt": "", "text": "The words of the wise are as the sand of the sea."},
        ],
    }  # fmt: skip


def coloured() -> list[dict[str, Any]]:
    generator = random.Random(5)
    documents = []
    for identity in ("Genesis 1", "Genesis 2"):
        tokens, start, data = [], 0, TEXT.encode()
        while start < len(data):
            size = min(generator.choice([1, 2, 3, 4, 5]), len(data) - start)
            tokens.append([data[start : start + size].hex(), size * generator.expovariate(0.7)])
            start += size
        documents.append({"id": identity, "tokens": [*tokens, ["", 0.31]]})
    return documents


def recipe() -> dict[str, Any]:
    layer = {
        "type": "Layer",
        "attention": {"type": "Attention", "heads": 8, "kv_heads": 4, "window": None, "rope": {"type": "Rope", "base": 10000.0}},
        "mlp": {"type": "Mlp", "width": 1024, "activation": {"type": "ReluSquared"}},
    }  # fmt: skip
    return {
        "type": "Recipe",
        "name": "pocket",
        "model": {"type": "ModelSpec", "width": 256, "tied": True, "layers": [layer] * 4},
        "training": {"type": "Training", "rows": 32, "length": 256, "betas": [0.9, 0.95], "stages": []},
    }


def environment() -> dict[str, Any]:
    return {
        "python": "3.11.7", "torch": "2.13.0+cpu", "platform": "Linux-6.1-x86_64", "cpu": "Example CPU @ 2.9 GHz", "cores": 2,
        "gpu": None, "package_version": "0.1.0", "source_sha256": "ab" * 32, "date": "2026-11-22T06:36:01+00:00",
        "packages": {"numpy": "2.4.6", "torch": "2.13.0", "brotli": "1.2.1"},
    }  # fmt: skip


def write_run(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics()))
    for name, data in (
        ("recipe", recipe()),
        ("environment", environment()),
        ("result", result()),
        ("coloured", coloured()),
    ):
        (folder / f"{name}.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def untouched_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that change nothing."""
    return write_run(tmp_path_factory.mktemp("untouched") / "run-1")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run-1")


@pytest.fixture
def undrawn_folder(run_folder: Path) -> Path:
    """Without what curves are drawn from, which takes longer than all the rest."""
    (run_folder / "metrics.jsonl").unlink()
    return run_folder
