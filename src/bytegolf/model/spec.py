"""The whole network as data, and the language model it builds.

Shapes: B rows, T tokens, D width, V vocabulary, N = B·T.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.capped_loss import capped_cross_entropy, soft_cap
from bytegolf.kernels.rms_norm import rms_norm
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.linear import Adapter
from bytegolf.model.roles import Component
from bytegolf.model.stack import Block, Stack
from bytegolf.model.stream import Memory, Stream


@dataclass(frozen=True)
class Model:
    """Settings of a network.

    vocabulary: number of token ids; 0 takes the tokenizer's. width: channels of the residual stream.
    layers: the blocks, first to last. soft_cap: bound of the logits, None for none. skips: U-Net skips.
    """

    width: int = 512
    layers: tuple[Block, ...] = (Block(),) * 9
    embedding: TiedEmbedding = TiedEmbedding()
    skips: bool = True
    soft_cap: float | None = 30.0
    vocabulary: int = 0

    def __post_init__(self) -> None:
        if self.width < 2:
            raise RecipeError(f"width={self.width} is too small; 64 is a sensible least")
        if not self.layers:
            raise RecipeError("layers is empty; a model needs at least one block")
        if self.soft_cap is not None and self.soft_cap <= 0:
            raise RecipeError(f"soft_cap={self.soft_cap}; give a positive bound, or None for no cap")
        if self.vocabulary < 0:
            raise RecipeError(f"vocabulary={self.vocabulary}; 0 takes the tokenizer's")

    def build(self) -> "LanguageModel":
        """The network with fresh weights, drawn from torch's generator, float32 on the CPU."""
        if not self.vocabulary:
            raise RecipeError("vocabulary is 0: it is taken from the tokenizer before a model is built")
        return LanguageModel(self)


class LanguageModel(Component):
    """ids → next-token distribution. The one forward pass of training, scoring, decoding and adaptation.

    `head_adapter`, where set, adds to the logits before their cap: (..., D) -> (..., V).
    """

    def __init__(self, spec: Model) -> None:
        super().__init__()
        self.spec = spec
        self.compute_dtype = torch.float32
        self.head_adapter: Adapter | None = None
        self.embedding = spec.embedding.build(spec.vocabulary, spec.width)
        self.stack = Stack(spec.layers, spec.width, skips=spec.skips)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def hidden(self, ids_BT: Tensor, stream: Stream) -> Tensor:
        """The normalized output of the last layer, (B, T, D) in the compute precision."""
        x_BTD = rms_norm(self.embedding(ids_BT).to(self.compute_dtype))
        return rms_norm(self.stack(x_BTD, stream))

    def losses(self, ids_BT: Tensor, targets_BT: Tensor, starts_BT: Tensor) -> Tensor:
        """Nats of each target given the tokens of its document up to its place, (B, T), float32 at least.

        ids_BT, targets_BT: int64, targets_BT[b, t] follows ids_BT[b, t]. starts_BT: bool, where a
        document begins among the ids; best left on the CPU (see `Stream.of`).
        """
        h_BTD = self.hidden(ids_BT, Stream.of(starts_BT, device=ids_BT.device))
        nats_N = self.nats(h_BTD.flatten(0, 1), targets_BT.flatten())
        return nats_N.unflatten(0, ids_BT.shape)

    def losses_at(self, ids_BT: Tensor, targets_M: Tensor, starts_BT: Tensor, places_M: Tensor) -> Tensor:
        """Nats of the targets of M places only, (M,): the head, often half the work, is spared elsewhere.

        places_M: int64, b · T + t of the place whose target is meant. The rest as for `losses`.
        """
        h_BTD = self.hidden(ids_BT, Stream.of(starts_BT, device=ids_BT.device))
        return self.nats(h_BTD.flatten(0, 1).index_select(0, places_M), targets_M)

    def nats(self, h_ND: Tensor, targets_N: Tensor) -> Tensor:
        """−log p(target) from hidden states, (N,)."""
        if self.head_adapter is not None:
            return torch.nn.functional.nll_loss(self.distribution(h_ND), targets_N, reduction="none")
        return capped_cross_entropy(h_ND, self.embedding.used_weight(), targets_N, self.spec.soft_cap)

    def log_probabilities(self, ids_BT: Tensor, starts_BT: Tensor, memory: Memory | None = None) -> Tensor:
        """Log of the full next-token distribution after every token, (B, T, V), float32 at least.

        With `memory`, the ids continue what it has seen, and it is extended by them.
        """
        return self.distribution(self.hidden(ids_BT, Stream.of(starts_BT, memory, device=ids_BT.device)))

    def distribution(self, h: Tensor) -> Tensor:
        """Log-probabilities of the next token from hidden states (..., D): (..., V), float32 at least."""
        logits = h @ self.embedding.used_weight().to(h.dtype).mT
        if self.head_adapter is not None:
            logits = logits + self.head_adapter(h)
        return torch.log_softmax(soft_cap(logits, self.spec.soft_cap), dim=-1)

    def compile_parts(self) -> None:
        """Compiles each block and the loss on their own.

        Blocks of one shape share their code, so this costs seconds where compiling the whole network
        costs minutes, and parameter names stay as they are.
        """
        self.stack.compile_parts()
        self.nats = torch.compile(self.nats)
