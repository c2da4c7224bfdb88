"""Text by a model for its own calibration: many rows at once, packed as training text is.

Shapes: B rows, T tokens, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from bytegolf.compression.calibration import as_scored
from bytegolf.model.decoding import Reader
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.tokenizer import Tokenizer, text_ids


def sampled_batches(
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    batches: int,
    rows: int,
    length: int,
    temperature: float = 0.8,
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(ids, targets, starts) of text that the model writes, each (rows, length); starts lie on the CPU.

    Every row begins a document, and another one wherever the model ends it; none stops before the row's end.
    As long rows as in training and a temperature of 0.8 were used by the 16 MB challenge (its PR 1019).
    """
    # A new one may record a graph, which must be of the passes that are meant.
    with as_scored(model):
        reader = Reader(model, rows, length)
    allowed_V = torch.from_numpy(text_ids(tokenizer))
    allowed_V[tokenizer.bos] = True
    generator = torch.Generator().manual_seed(seed)
    for _ in range(batches):
        with as_scored(model):
            written_BT = _write(reader, rows, length, tokenizer.bos, allowed_V, temperature, generator)
        ids_BT, targets_BT = written_BT[:, :-1].to(model.device), written_BT[:, 1:].to(model.device)
        yield ids_BT, targets_BT, written_BT[:, :-1] == tokenizer.bos


def _write(
    reader: Reader,
    rows: int,
    length: int,
    bos: int,
    allowed_V: Tensor,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Ids (rows, length + 1), on the CPU: those read, and one more."""
    ids_B = torch.full((rows,), bos)
    logs_BV = reader.begin(ids_B[:, None], torch.ones(rows, 1, dtype=torch.bool))
    written = [ids_B]
    for place in range(length):
        if place:
            logs_BV = reader.step(ids_B, ids_B == bos)
        # On the CPU in float64, so that a seed means the same anywhere.
        scores_BV = (logs_BV.double().cpu() / temperature).masked_fill(~allowed_V, -torch.inf)
        ids_B = torch.multinomial(scores_BV.softmax(dim=1), 1, generator=generator)[:, 0]
        written.append(ids_B)
    return torch.stack(written, dim=1)
