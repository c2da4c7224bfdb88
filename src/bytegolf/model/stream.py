"""What travels through the layers beside the residual: document borders, positions, decoding memory.

Shapes: B rows, T tokens in a row, S tokens in memory before them.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bytegolf.kernels.attention import Segments, segments_from_starts

#: The memory's key for the numbers of the documents.
_DOCUMENT = "document"


#: A position after every query: what stands there is seen by none.
_NEVER = 2**40


@dataclass(frozen=True, eq=False)
class Places:
    """Where T tokens go in the room that a memory has for S.

    places_T: int64. For each room, source_S: the one of the T that it may take, and new_S: whether it does.
    """

    places_T: Tensor
    source_S: Tensor
    new_S: Tensor

    @staticmethod
    def of(first_1: Tensor, tokens: int, capacity: int) -> "Places":
        """`tokens` places from `first_1` (int64, one number) on, on its device."""
        ahead_S = torch.arange(capacity, device=first_1.device) - first_1
        return Places(
            first_1 + torch.arange(tokens, device=first_1.device),
            ahead_S.clamp(0, tokens - 1),
            (ahead_S >= 0) & (ahead_S < tokens),
        )

    @torch.no_grad()
    def write(self, kept_BSX: Tensor, value_BTX: Tensor) -> None:
        """Puts the tokens into their rooms, in place, and leaves the rest as it is."""
        new_S1 = self.new_S.view(-1, *[1] * (kept_BSX.ndim - 2))
        # Every room is written: where a GPU is told the places, writes are waited for or do not repeat.
        kept_BSX.copy_(torch.where(new_S1, value_BTX.index_select(1, self.source_S), kept_BSX))


@dataclass
class Memory:
    """What the layers keep between tokens while decoding: tensors by layer and name, and how far we are.

    Every layer keeps its own tensors under its key; the model appends to them in the same forward pass that
    training uses. `capacity` is a bound on the tokens to come, for which room is then taken once; without it
    every token copies all before it. `one_document`: no row has begun another document since its first token.
    `place_1` (int64, one number on the model's device): while set, one token a row is written at this place
    and all the room is given back, so that shapes and addresses do not depend on how far we are. `places`:
    the same for T tokens a row that are learned from; they are given back behind the room, and gradients
    reach them alone. `turn`: how often the running layer has been applied to these tokens before; each time
    it keeps tensors of its own.
    """

    capacity: int | None = None
    position: int = 0
    one_document: bool = True
    place_1: Tensor | None = None
    places: Places | None = None
    turn: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def extend(self, key: str, value_BTX: Tensor) -> Tensor:
        """Appends along time to what is kept under `key`; returns all of it, (B, position, ...).

        While `place_1` is set, (B, capacity, ...): what lies after that place is finite, and no part of it.
        While `places` are set, (B, capacity + T, ...): of the capacity, what lies before them is part of it.
        """
        key = self._key(key)
        kept = self.tensors.get(key)
        if self.places is not None:
            assert kept is not None
            whole = torch.cat([kept, value_BTX], dim=1)
            self.places.write(kept, value_BTX.detach())
            return whole
        if self.capacity is None:
            kept = value_BTX if kept is None else torch.cat([kept, value_BTX], dim=1)
            self.tensors[key] = kept
            return kept
        if self.place_1 is not None:
            assert kept is not None
            return kept.index_copy_(1, self.place_1, value_BTX)
        assert self.position <= self.capacity, "more tokens than the memory has room for"
        if kept is None:
            rows, _, *rest = value_BTX.shape
            kept = self.tensors[key] = value_BTX.new_zeros(rows, self.capacity, *rest)
        kept[:, self.position - value_BTX.shape[1] : self.position] = value_BTX
        return kept[:, : self.position]

    def shifted(self, key: str, value_BTX: Tensor) -> Tensor:
        """The value one token earlier, (B, T, ...), continuing what is kept under `key`: the newest token's.

        Zero where nothing was read before. It does not know of documents: see `Stream.earlier`.
        """
        key = self._key(key)
        newest_B1X = value_BTX[:, -1:]
        # `position` already counts these tokens; at places there is always something from before.
        counted = self.place_1 is None and self.places is None
        first = counted and self.position == value_BTX.shape[1]
        before_B1X = torch.zeros_like(newest_B1X) if first else self.tensors[key]
        shifted_BTX = torch.cat([before_B1X, value_BTX[:, :-1]], dim=1)
        if self.capacity is not None and key in self.tensors:
            # A recorded graph reads this address.
            self.tensors[key].copy_(newest_B1X.detach())
        else:
            self.tensors[key] = newest_B1X.clone()
        return shifted_BTX

    def _key(self, key: str) -> str:
        return f"{key}, turn {self.turn}" if self.turn else key

    def restart(self) -> None:
        """Forgets all tokens; the room stays taken, at the same addresses."""
        self.position, self.one_document = 0, True
        if self.capacity is None:
            self.tensors.clear()


@dataclass
class Stream:
    """Document borders and positions of the tokens in flight.

    `starts_BT` (bool) marks tokens that begin a document. `document_BT` (int64) numbers the documents of
    a row; a row that begins inside a document has that document as number 0. Tokens of different
    documents never see each other. `positions_T` (int64) count from the start of the row. `newest_only`: one
    token a row that belongs to the document of everything in memory, so that it sees all keys.
    `shared_values_BTX`: what a value embedding gives to the attention layers that take it, X the width of
    all their value heads.
    """

    starts_BT: Tensor
    document_BT: Tensor
    positions_T: Tensor
    key_document_BS: Tensor
    key_positions_S: Tensor
    segments: Segments | None = None
    memory: Memory | None = None
    newest_only: bool = False
    shared_values_BTX: Tensor | None = None

    def earlier(self, key: str, value_BTX: Tensor) -> Tensor:
        """The value of the token before, (B, T, ...); zero where its document has none before it.

        `key` names the memory of decoding.
        """
        if self.memory is not None:
            earlier_BTX = self.memory.shifted(key, value_BTX)
        else:
            earlier_BTX = torch.cat([torch.zeros_like(value_BTX[:, :1]), value_BTX[:, :-1]], dim=1)
        starts_BTX = self.starts_BT.view(*self.starts_BT.shape, *[1] * (value_BTX.ndim - 2))
        return earlier_BTX.masked_fill(starts_BTX, 0)

    @staticmethod
    def of(
        starts_BT: Tensor, memory: Memory | None = None, *, device: torch.device | None = None
    ) -> "Stream":
        """The stream of a batch that begins here, or that continues what `memory` has seen.

        `device` is the model's, by default that of `starts_BT`. Where the model is on a GPU, `starts_BT`
        better lies on the CPU: finding borders on the GPU would wait for all the work queued there.
        """
        device = device or starts_BT.device
        packed = device.type == "cuda" and (memory is None or not memory.position)
        segments = segments_from_starts(starts_BT, device) if packed else None
        length = starts_BT.shape[1]
        offset = memory.position if memory is not None else 0
        later = starts_BT if offset else starts_BT[:, 1:]
        starts_BT = starts_BT.to(device, non_blocking=True)
        document_BT = starts_BT.long().cumsum(dim=1)
        key_document = document_BT
        newest_only = False
        if memory is not None:
            memory.one_document &= not bool(later.any())
            newest_only = length == 1 and memory.one_document
            if offset:
                document_BT = document_BT + memory.tensors[_DOCUMENT][:, offset - 1 : offset]
            memory.position = offset + length
            key_document = memory.extend(_DOCUMENT, document_BT)
        positions = torch.arange(offset, offset + length, device=device)
        key_positions = torch.arange(offset + length, device=device) if offset else positions
        return Stream(
            starts_BT, document_BT, positions, key_document, key_positions, segments, memory, newest_only
        )

    @staticmethod
    def of_next(starts_B1: Tensor, memory: Memory) -> "Stream":
        """The stream of one token a row at `memory.place_1`: the same work on the same addresses every time.

        `starts_B1` lies on the model's device. The memory has room and is not empty.
        """
        place_1 = memory.place_1
        assert place_1 is not None
        assert memory.capacity is not None
        before_B1 = memory.tensors[_DOCUMENT].index_select(1, place_1 - 1)
        document_B1 = before_B1 + starts_B1.long()
        key_document_BS = memory.extend(_DOCUMENT, document_B1)
        key_positions_S = torch.arange(memory.capacity, device=starts_B1.device)
        return Stream(starts_B1, document_B1, place_1, key_document_BS, key_positions_S, None, memory)

    @staticmethod
    def of_places(starts_BT: Tensor, memory: Memory) -> "Stream":
        """The stream of T tokens a row at `memory.places`: the same work on the same addresses every time.

        `starts_BT` lies on the model's device. The memory has rooms, zero where nothing was read yet.
        """
        places = memory.places
        assert places is not None
        before_B1 = memory.tensors[_DOCUMENT].index_select(1, (places.places_T[:1] - 1).clamp(min=0))
        document_BT = before_B1 + starts_BT.long().cumsum(dim=1)
        key_document_BS = memory.extend(_DOCUMENT, document_BT)
        rooms_S = torch.arange(len(places.new_S), device=starts_BT.device)
        rooms_S = rooms_S.masked_fill(rooms_S >= places.places_T[0], _NEVER)
        key_positions_S = torch.cat([rooms_S, places.places_T])
        return Stream(starts_BT, document_BT, places.places_T, key_document_BS, key_positions_S, None, memory)
