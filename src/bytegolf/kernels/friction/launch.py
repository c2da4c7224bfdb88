"""What every friction kernel is started with: where tensors lie, the rule, and how edges are cut into tiles.

Shapes: B rows, T tokens, H query heads, G key/value heads, K head width.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-not-found]

from bytegolf.kernels.friction.costs import HeadCosts
from bytegolf.kernels.friction.gate import Rule
from bytegolf.kernels.friction.ptx import gate_ptx

_FORMS = {"mu": 0, "eta_mu": 1, "log_domain": 2}
_SOFTMAX = 3


class Laid(NamedTuple):
    """A tensor (B, T, heads, K) and its strides; the numbers of a head lie side by side."""

    data: Any
    row: Any
    token: Any
    head: Any

    @staticmethod
    def of(x_BTHK: Tensor) -> "Laid":
        assert x_BTHK.stride(-1) == 1, "the numbers of a head must lie side by side"
        return Laid(x_BTHK, *x_BTHK.stride()[:3])


class Sight(NamedTuple):
    """first: int32 (B, T), the first key that each query sees, if packed. bias to farthest: `HeadCosts`.

    tokens, heads and groups: T, H and G. scale: 1/sqrt(K).
    """

    first: Any
    bias: Any
    friction: Any
    table: Any
    between_tables: Any
    farthest: Any
    tokens: Any
    heads: Any
    groups: Any
    scale: Any


class Gate(NamedTuple):
    """The rule as kernels are compiled for it.

    weights_ptx, slopes_ptx: see `ptx.gate_ptx`. normalized: whether a query's weights are scaled by what they
    add up to.
    """

    form: Any
    exponent: Any
    weights_ptx: Any
    slopes_ptx: Any
    normalized: Any

    @staticmethod
    def of(rule: Rule | None) -> "Gate":
        """None: a softmax."""
        if rule is None:
            return Gate(_SOFTMAX, 1.0, "", "", True)
        ptx = gate_ptx(rule, slopes=False), gate_ptx(rule, slopes=True)
        return Gate(_FORMS[rule.form], rule.exponent, *ptx, rule.capacity is not None)


class Cut(NamedTuple):
    """queries × keys of a tile, powers of two from 16 on; width: K; block: a power of two that holds it."""

    queries: Any
    keys: Any
    width: Any
    block: Any


@dataclass(frozen=True)
class EdgeTiles:
    """queries × keys of a tile, powers of two from 16 on; warps: groups of 32 threads; stages: tiles in
    flight; registers: bound for each thread of the forward pass, from Hopper on: with 128 more tiles are at
    work at a time, and none waits for memory instead. A softmax computes too much at once for that (`of`).

    Dense and sparse kernels take the same, and none is tuned at the first step: rounding must not differ.
    """

    queries: int = 64
    keys: int = 64
    warps: int = 4
    stages: int = 2
    registers: int | None = 128

    @staticmethod
    def of(rule: Rule | None) -> "EdgeTiles":
        return EdgeTiles() if rule is not None else EdgeTiles(registers=None)

    def cut(self, width: int) -> Cut:
        return Cut(self.queries, self.keys, width, max(16, 1 << (width - 1).bit_length()))

    @property
    def launch(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


@dataclass(frozen=True)
class Edges:
    """Queries (B, T, H, K), keys and values (B, T, G, K), and which see which.

    first_BT, last_BT: int32, the first key that a query sees, and one more than the last query that sees a
    key; neither falls along a row. None where all that came before is seen. costs: of all distances below
    `EdgeTiles.queries` times `query_tiles`. rule: None for a softmax, of scores below 80.
    """

    q_BTHK: Tensor
    k_BTGK: Tensor
    v_BTGK: Tensor
    first_BT: Tensor | None
    last_BT: Tensor | None
    costs: HeadCosts
    rule: Rule | None
    tiles: EdgeTiles = EdgeTiles()

    @property
    def bound(self) -> tuple[float, float] | None:
        """(C, least): what is read is multiplied by C / max(r, least), where r is what weights add up to.

        A capacity is both. A softmax has (1, next to 0): its weights always add up to 1. None for no scaling.
        """
        if self.rule is None:
            return 1.0, 1e-30
        return None if self.rule.capacity is None else (self.rule.capacity, self.rule.capacity)

    @property
    def query_tiles(self) -> int:
        return -(-self.q_BTHK.shape[1] // self.tiles.queries)

    @property
    def key_tiles(self) -> int:
        return -(-self.q_BTHK.shape[1] // self.tiles.keys)

    @property
    def heads(self) -> int:
        """Query heads of all rows."""
        return self.q_BTHK.shape[0] * self.q_BTHK.shape[2]

    @property
    def groups(self) -> int:
        """Key/value heads of all rows."""
        return self.k_BTGK.shape[0] * self.k_BTGK.shape[2]

    @property
    def described(self) -> bool:
        """Whether tiles come through Hopper's tensor memory accelerator: whole, aligned, of one matrix."""
        tokens, width = self.q_BTHK.shape[1], self.q_BTHK.shape[-1]
        whole = tokens % self.tiles.queries == 0 and tokens % self.tiles.keys == 0
        block = self.tiles.cut(width).block
        return whole and block == width and all(map(_one_matrix, (self.q_BTHK, self.k_BTGK, self.v_BTGK)))

    def of_keys(self, x_BTGK: Tensor) -> Laid | TensorDescriptor:
        """Keys or values as kernels take tiles of them."""
        return _described(x_BTGK, self.tiles.keys) if self.described else Laid.of(x_BTGK)

    def of_queries(self, x_BTHK: Tensor) -> Laid | TensorDescriptor:
        """Queries, or what is like them, as kernels take tiles of them."""
        return _described(x_BTHK, self.tiles.queries) if self.described else Laid.of(x_BTHK)

    @property
    def sight(self) -> Sight:
        (_, tokens, heads, width), groups = self.q_BTHK.shape, self.k_BTGK.shape[2]
        costs = self.costs
        tabled = (costs.bias_H, costs.friction_H, costs.table, costs.between_heads, costs.farthest)
        return Sight(self.first_BT, *tabled, tokens, heads, groups, width**-0.5)

    @property
    def arguments(self) -> dict[str, Any]:
        """What all kernels that weigh edges take."""
        return {
            "q": self.of_queries(self.q_BTHK),
            "k": self.of_keys(self.k_BTGK),
            "v": self.of_keys(self.v_BTGK),
            "sight": self.sight,
            "PACKED": self.first_BT is not None,
            "DESCRIBED": self.described,
            "GATE": Gate.of(self.rule),
            "CUT": self.tiles.cut(self.q_BTHK.shape[-1]),
            **self.tiles.launch,
        }


def _one_matrix(x_BTHK: Tensor) -> bool:
    """Whether all heads of all tokens lie in one matrix whose rows begin at multiples of 16 bytes."""
    rows, tokens, _, width = x_BTHK.shape
    row, token, head, _ = x_BTHK.stride()
    aligned = x_BTHK.data_ptr() % 16 == 0 and token * x_BTHK.element_size() % 16 == 0
    return aligned and head == width and (rows == 1 or row == tokens * token)


def _described(x_BTHK: Tensor, block: int) -> TensorDescriptor:
    rows, tokens, heads, width = x_BTHK.shape
    shape, strides = [rows * tokens, heads * width], [x_BTHK.stride(1), 1]
    return TensorDescriptor(x_BTHK, shape, strides, [block, width])


def borders(document_BT: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """first_BT and last_BT of `Edges` from the numbers of documents, which never fall along a row."""
    document_BT = document_BT.contiguous()
    first_BT = torch.searchsorted(document_BT, document_BT, out_int32=True)
    last_BT = torch.searchsorted(document_BT, document_BT, right=True, out_int32=True)
    if window is not None:
        place_T = torch.arange(document_BT.shape[1], dtype=torch.int32, device=document_BT.device)
        first_BT = torch.maximum(first_BT, place_T - window)
        last_BT = torch.minimum(last_BT, place_T + window + 1)
    return first_BT, last_BT
