"""Models that can be asked: what they predict at places of rows.

Shapes: B rows, L ids of the longest, M places; place b · L + t is behind id t of row b.
"""

from typing import Protocol

import torch
from torch import Tensor

from bytegolf.evaluation.passes import fitted, on_host
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.tokenizer import Tokenizer

#: Places whose whole distributions are held at once.
_PLACES_AT_ONCE = 4096


class Reader(Protocol):
    """A language model with its tokenizer.

    name: for people. digest: equal digests, equal model. precision: of what it computes. context: the most
    ids of a row, None if any number. tokens_per_pass: ids, padding included, that the device does well at
    once.
    """

    name: str
    digest: str
    precision: str
    context: int | None
    tokens_per_pass: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text, behind the id that begins a document."""
        ...

    def predict(self, ids_BL: Tensor, lengths_B: Tensor, places_M: Tensor) -> tuple[Tensor, Tensor]:
        """−ln p (M,) of the id that follows each place, and the likeliest id (M,) there, on the CPU.

        Behind its length a row is padding; no place lies there, nor at a row's last id.
        """
        ...


class ModelReader:
    """A `LanguageModel` that reads each row as one document."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, *, name: str, digest: str, context: int | None
    ) -> None:
        self.name, self.digest, self.context = name, digest, context
        self.precision = str(model.compute_dtype).removeprefix("torch.")
        self.tokens_per_pass = 65_536 if model.device.type == "cuda" else 4_096
        self._model, self._tokenizer = model, tokenizer

    def encode(self, text: str) -> list[int]:
        return [self._tokenizer.bos, *map(int, self._tokenizer.encode(text))]

    @torch.no_grad()
    def predict(self, ids_BL: Tensor, lengths_B: Tensor, places_M: Tensor) -> tuple[Tensor, Tensor]:
        model = self._model
        is_start_BL = torch.zeros(ids_BL.shape, dtype=torch.bool)
        is_start_BL[:, 0] = True
        # Padding is a document of its own, so that nothing reads back into the row.
        padded_B = lengths_B < ids_BL.shape[1]
        is_start_BL[padded_B, lengths_B[padded_B]] = True
        starts_BL = on_host(is_start_BL.numpy(), model.device)
        wanted_M = ids_BL.flatten()[places_M + 1].to(model.device)
        with fitted(model, ids_BL.shape[1]):
            h_MD = model.hidden_at(ids_BL.to(model.device), starts_BL, places_M.to(model.device))
            found = [
                chosen(model.distribution(h_ND), wanted_N)
                for h_ND, wanted_N in zip(
                    h_MD.split(_PLACES_AT_ONCE), wanted_M.split(_PLACES_AT_ONCE), strict=True
                )
            ]
        nats, likeliest = zip(*found, strict=True)
        return torch.cat(nats).cpu(), torch.cat(likeliest).cpu()


def chosen(logs_NV: Tensor, wanted_N: Tensor) -> tuple[Tensor, Tensor]:
    """−ln p of the wanted ids, and the likeliest ids, from log-probabilities; (N,) each."""
    nats_N = -logs_NV.gather(1, wanted_N[:, None]).squeeze(1)
    return nats_N, logs_NV.argmax(dim=1)
