"""A bundle of a few items, and a reader whose predictions are written down."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bytegolf.evaluation.core.tasks import TASKS

ITEMS: dict[str, list[dict[str, Any]]] = {
    "multiple_choice": [
        {"query": f"Question {number}", "choices": ["yes", "no"], "gold": number % 2} for number in range(7)
    ],
    "schema": [
        {"context_options": [f"The cat {number}", f"A mouse {number}"], "continuation": "ran.", "gold": 1}
        for number in range(5)
    ],
    "language_modeling": [
        {"context": f"one two {number}", "continuation": "three" if number % 2 else "four"}
        for number in range(6)
    ],
}
META = "Eval Task,Task Category,Task Type,#shots,#datapoints,Random baseline\n"
PUBLISHED = "Task , Accuracy , Centered\ncopa , 0.6 , 0.2\nCORE , , 0.113891\n"


def write_bundle(folder: Path) -> Path:
    """All 22 tasks with a few items of their kind each, as nanochat lays them out."""
    for task in TASKS:
        path = folder / "eval_data" / task.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS[task.kind]), encoding="utf-8")
    (folder / "core.yaml").write_text("icl_tasks:\n", encoding="utf-8")
    (folder / "eval_meta_data.csv").write_text(META, encoding="utf-8")
    (folder / "openai-community-gpt2.csv").write_text(PUBLISHED, encoding="utf-8")
    (folder / "squad_dev_titles_in_enwiki_2015.txt").write_text("Oxygen\nWarsaw\n", encoding="utf-8")
    return folder


class ScriptedReader:
    """Ids are characters. After a text that ends in a key of `script`, its ids have these −ln p.

    What the script does not say has 1. An id is the likeliest where its −ln p is below 0.5.
    """

    name, digest, precision, context = "scripted", "0", "float32", None

    def __init__(self, script: Mapping[str, Mapping[str, float]], tokens_per_pass: int = 500) -> None:
        self.script, self.tokens_per_pass = script, tokens_per_pass
        self.passes: list[Sequence[int]] = []

    def encode(self, text: str) -> list[int]:
        return [0, *map(ord, text)]

    def predict(self, ids_BL: Tensor, lengths_B: Tensor, places_M: Tensor) -> tuple[Tensor, Tensor]:
        self.passes.append(lengths_B.tolist())
        nats, likeliest = [], []
        for place in places_M.tolist():
            row, last = divmod(place, ids_BL.shape[1])
            assert last + 1 < lengths_B[row], "asked for what follows a row"
            before = "".join(map(chr, ids_BL[row, 1 : last + 1].tolist()))
            wanted = chr(int(ids_BL[row, last + 1]))
            found = next((own for key, own in self.script.items() if before.endswith(key)), {})
            nats.append(found.get(wanted, 1.0))
            likeliest.append(ord(wanted) if nats[-1] < 0.5 else 1)
        return torch.tensor(nats), torch.tensor(likeliest)
