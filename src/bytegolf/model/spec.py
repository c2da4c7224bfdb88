"""The whole network as data, and the language model it builds.

Shapes: B rows, T tokens, D width, V vocabulary, N = B·T.
"""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.kernels.capped_loss import (
    CapForm,
    capped_cross_entropy,
    capped_cross_entropy_and_normalizer,
    soft_cap,
)
from bytegolf.kernels.rms_norm import rms_norm
from bytegolf.model.attention import Attention
from bytegolf.model.bigram import Bigram
from bytegolf.model.embedding import FactoredEmbedding, TiedEmbedding
from bytegolf.model.initialization import start_orthogonal
from bytegolf.model.lanes import Lanes
from bytegolf.model.linear import Adapter
from bytegolf.model.loop import Loop, layer_order
from bytegolf.model.roles import Component
from bytegolf.model.rotary import Rotary
from bytegolf.model.smear import Smear
from bytegolf.model.stack import Block, ResidualMix, Skips, Stack
from bytegolf.model.stream import Memory, Stream
from bytegolf.model.value_embedding import ValueEmbedding


@dataclass(frozen=True)
class Model:
    """Settings of a network.

    vocabulary: number of token ids; 0 takes the tokenizer's. width: channels of the residual stream.
    layers: the blocks, first to last. soft_cap: bound of the logits, None for none; cap_form: how it bends
    them. skips: U-Net skips, true, false or "gated". bigram: what pairs of tokens add to the embedding.
    smear: what a token's embedding takes of the one before it. value_embedding: what is added to the values
    of attention layers that have `shared_values`. loop: layers that run several times. residual_mix: whether
    layers start by reading their input alone, or early ones mostly the embedded input ("phase"), or mix the
    two at no time ("none").
    scaled_norms: what layer l normalizes is scaled by 1/√(l + 1). initialization: of matrices that don't
    start at zero. lanes: two residual streams in the last layers.
    """

    width: int = 512
    layers: tuple[Block, ...] = (Block(),) * 9
    embedding: TiedEmbedding | FactoredEmbedding = TiedEmbedding()
    skips: Skips = True
    soft_cap: float | None = 30.0
    vocabulary: int = 0
    cap_form: CapForm = "tanh"
    bigram: Bigram | None = None
    smear: Smear | None = None
    value_embedding: ValueEmbedding | None = None
    loop: Loop | None = None
    residual_mix: ResidualMix = "input"
    scaled_norms: bool = False
    initialization: Literal["uniform", "orthogonal"] = "uniform"
    lanes: Lanes | None = None

    def __post_init__(self) -> None:
        if self.width < 2:
            raise RecipeError(f"width={self.width} is too small; 64 is a sensible least")
        if not self.layers:
            raise RecipeError("layers is empty; a model needs at least one block")
        layer_order(len(self.layers), self.loop)
        if self.soft_cap is not None and self.soft_cap <= 0:
            raise RecipeError(f"soft_cap={self.soft_cap}; give a positive bound, or None for no cap")
        if self.vocabulary < 0:
            raise RecipeError(f"vocabulary={self.vocabulary}; 0 takes the tokenizer's")
        self._check_shared_values()
        self._check_lanes()

    def _check_shared_values(self) -> None:
        widths = sorted({mixer.value_width(self.width) for mixer in self._with_shared_values()})
        if bool(widths) != (self.value_embedding is not None):
            missing = "value_embedding is None" if widths else "no layer has shared_values"
            raise RecipeError(f"{missing}; a value embedding needs both, it and layers that take it")
        if len(widths) > 1:
            raise RecipeError(
                f"layers with shared_values have values of {' and '.join(map(str, widths))} channels; "
                "give them the same key_value_heads and head_width"
            )

    def _check_lanes(self) -> None:
        if self.lanes is None:
            return
        start, layers = self.lanes.start, len(self.layers)
        if start >= layers:
            raise RecipeError(
                f"lanes.start={start}, but the layers are 0 to {layers - 1}; choose a layer that exists"
            )
        if self.loop is not None and self.loop.last >= start:
            raise RecipeError(
                f"loop.last={self.loop.last} has two lanes, which begin at layer {start}; "
                "end the loop before it, or raise lanes.start"
            )
        alone = [number for number in range(start, layers) if self.layers[number].parallel]
        if alone:
            raise RecipeError(
                f"layers.{alone[0]}.parallel is set, but with lanes from layer {start} on mixer and MLP "
                "already read apart; set it to false there"
            )

    def _with_shared_values(self) -> list[Attention]:
        mixers = [layer.mixer for layer in self.layers]
        return [mixer for mixer in mixers if isinstance(mixer, Attention) and mixer.shared_values]

    @property
    def value_width(self) -> int:
        """Channels of the values that a value embedding is added to; there is one."""
        return self._with_shared_values()[0].value_width(self.width)

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
        self.compiled = False
        self.embedding = spec.embedding.build(spec.vocabulary, spec.width)
        self.bigram = spec.bigram.build(spec.width) if spec.bigram else None
        self.smear = spec.smear.build(spec.width) if spec.smear else None
        self.value_embedding = (
            spec.value_embedding.build(spec.vocabulary, spec.value_width) if spec.value_embedding else None
        )
        self.stack = Stack(
            spec.layers,
            spec.width,
            skips=spec.skips,
            loop=spec.loop,
            residual_mix=spec.residual_mix,
            scaled_norms=spec.scaled_norms,
            lanes=spec.lanes,
        )
        if spec.initialization == "orthogonal":
            start_orthogonal(self)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def fit_rows(self, length: int | None) -> None:
        """Prepares for texts read in rows of up to `length` tokens, in place; None: as long as in training.

        Only rotary scalings that act in evaluation (`NtkAware`) change anything by it.
        """
        for module in self.modules():
            if isinstance(module, Rotary):
                module.fit_rows(length)

    def hidden(self, ids_BT: Tensor, stream: Stream) -> Tensor:
        """The normalized output of the last layer, (B, T, D) in the compute precision."""
        if self.value_embedding is not None:
            values_BTX = self.value_embedding(ids_BT, self.compute_dtype)
            stream = dataclasses.replace(stream, shared_values_BTX=values_BTX)
        return rms_norm(self.stack(self.embedded(ids_BT, stream), stream))

    def embedded(self, ids_BT: Tensor, stream: Stream) -> Tensor:
        """What enters the first layer, (B, T, D) in the compute precision."""
        x_BTD = self.embedding.embed(ids_BT, self.compute_dtype)
        if self.bigram is not None:
            x_BTD = x_BTD + self.bigram(ids_BT, stream, self.compute_dtype)
        if self.spec.smear is None or self.smear is None:
            return rms_norm(x_BTD)
        if self.spec.smear.place == "before_norm":
            return rms_norm(self.smear(x_BTD, stream))
        return self.smear(rms_norm(x_BTD), stream)

    def losses(self, ids_BT: Tensor, targets_BT: Tensor, starts_BT: Tensor) -> Tensor:
        """Nats of each target given the tokens of its document up to its place, (B, T), float32 at least.

        ids_BT, targets_BT: int64, targets_BT[b, t] follows ids_BT[b, t]. starts_BT: bool, where a
        document begins among the ids; best left on the CPU (see `Stream.of`).
        """
        h_BTD = self.hidden(ids_BT, Stream.of(starts_BT, device=ids_BT.device))
        nats_N = self.nats(h_BTD.flatten(0, 1), targets_BT.flatten())
        return nats_N.unflatten(0, ids_BT.shape)

    def losses_and_penalties(
        self, ids_BT: Tensor, targets_BT: Tensor, starts_BT: Tensor, *, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        """Nats as `losses` gives them, and z_loss · logsumexp(capped logits)², (B, T) each.

        The penalty (z-loss, Chowdhery et al. 2022) keeps logits from drifting all together. It belongs to
        training: no score has it.
        """
        h_BTD = self.hidden(ids_BT, Stream.of(starts_BT, device=ids_BT.device))
        nats_N, normalizer_N = self.nats_and_normalizers(h_BTD.flatten(0, 1), targets_BT.flatten())
        penalty_N = z_loss * normalizer_N.square()
        return nats_N.unflatten(0, ids_BT.shape), penalty_N.unflatten(0, ids_BT.shape)

    def losses_at(self, ids_BT: Tensor, targets_M: Tensor, starts_BT: Tensor, places_M: Tensor) -> Tensor:
        """Nats of the targets of M places only, (M,): the head does no work for the others.

        places_M: int64, b · T + t of the place whose target is meant. The rest as for `losses`.
        """
        return self.nats(self.hidden_at(ids_BT, starts_BT, places_M), targets_M)

    def hidden_at(self, ids_BT: Tensor, starts_BT: Tensor, places_M: Tensor) -> Tensor:
        """`hidden` at M places only, (M, D); see `losses_at`."""
        h_BTD = self.hidden(ids_BT, Stream.of(starts_BT, device=ids_BT.device))
        return h_BTD.flatten(0, 1).index_select(0, places_M)

    def nats(self, h_ND: Tensor, targets_N: Tensor) -> Tensor:
        """−log p(target) from hidden states, (N,)."""
        if self.head_adapter is not None:
            return torch.nn.functional.nll_loss(self.distribution(h_ND), targets_N, reduction="none")
        return capped_cross_entropy(*self._head(h_ND), targets_N, self.spec.soft_cap, self.spec.cap_form)

    def nats_and_normalizers(self, h_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """`nats`, and the logarithm of the softmax's denominator, (N,) each; in training, without adapter."""
        assert self.head_adapter is None
        return capped_cross_entropy_and_normalizer(
            *self._head(h_ND), targets_N, self.spec.soft_cap, self.spec.cap_form
        )

    def _head(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is multiplied for the logits, (..., E) and (V, E), and what is added to them, (V,)."""
        return self.embedding.head_input(h), self.embedding.used_weight(), self.embedding.bias_V

    def log_probabilities(self, ids_BT: Tensor, starts_BT: Tensor, memory: Memory | None = None) -> Tensor:
        """Log of the full next-token distribution after every token, (B, T, V), float32 at least.

        With `memory`, the ids continue what it has seen, and it is extended by them.
        """
        return self.distribution(self.hidden(ids_BT, Stream.of(starts_BT, memory, device=ids_BT.device)))

    def distribution(self, h: Tensor) -> Tensor:
        """Log-probabilities of the next token from hidden states (..., D): (..., V), float32 at least."""
        return torch.log_softmax(self.logits(h), dim=-1)

    def logits(self, h: Tensor) -> Tensor:
        """What the softmax is taken of, capped: (..., V), float32 at least."""
        read, table_VE, bias_V = self._head(h)
        logits = read @ table_VE.to(h.dtype).mT
        if self.head_adapter is not None:
            logits = logits + self.head_adapter(h)
        if bias_V is not None:
            logits = logits + bias_V
        return soft_cap(logits, self.spec.soft_cap, self.spec.cap_form)

    def as_written(self) -> AbstractContextManager[object]:
        """Within, compiled parts run as they are written.

        For a few passes in other shapes, or without gradients, which would be compiled anew.
        """
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def compile_parts(self) -> None:
        """Compiles each block and the loss on their own.

        Blocks of one shape share their code, so this costs seconds where compiling the whole network
        costs minutes, and parameter names stay as they are.
        """
        self.compiled = True
        self.stack.compile_parts()
        self.nats = torch.compile(self.nats)
        self.nats_and_normalizers = torch.compile(self.nats_and_normalizers)
