"""What travels through the layers beside the residual: document borders, positions, decoding memory.

Shapes: B rows, T tokens in a row, S tokens in memory before them.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bytegolf.kernels.attention import Segments, segments_from_starts


@dataclass
class Memory:
    """What the layers keep between tokens while decoding: tensors by layer and name, and how far we are.

    `document_BS` and `position_BS` describe the tokens already seen; every layer keeps its own tensors
    under its key. The model appends to both in the same forward pass that training uses.
    """

    position: int = 0
    document_BS: Tensor | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def extend(self, key: str, value_BTX: Tensor) -> Tensor:
        """Appends along time to what is kept under `key`; returns all of it, (B, S + T, ...)."""
        if key in self.tensors:
            value_BTX = torch.cat([self.tensors[key], value_BTX], dim=1)
        self.tensors[key] = value_BTX
        return value_BTX


@dataclass
class Stream:
    """Document borders and positions of the tokens in flight.

    `starts_BT` (bool) marks tokens that begin a document. `document_BT` (int64) numbers the documents of
    a row; a row that begins inside a document has that document as number 0. Tokens of different
    documents never see each other. `positions_T` (int64) count from the start of the row.
    """

    starts_BT: Tensor
    document_BT: Tensor
    positions_T: Tensor
    key_document_BS: Tensor
    key_positions_S: Tensor
    segments: Segments | None = None
    memory: Memory | None = None

    @staticmethod
    def of(
        starts_BT: Tensor, memory: Memory | None = None, *, device: torch.device | None = None
    ) -> "Stream":
        """The stream of a batch that begins here, or that continues what `memory` has seen.

        `device` is the model's, by default that of `starts_BT`. Where the model is on a GPU, `starts_BT`
        better lies on the CPU: finding borders on the GPU would wait for all the work queued there.
        """
        device = device or starts_BT.device
        packed = device.type == "cuda" and memory is None
        segments = segments_from_starts(starts_BT, device) if packed else None
        starts_BT = starts_BT.to(device, non_blocking=True)
        length = starts_BT.shape[1]
        offset = memory.position if memory is not None else 0
        document_BT = starts_BT.long().cumsum(dim=1)
        key_document = document_BT
        if memory is not None:
            key_document = document_BT
            if memory.document_BS is not None:
                document_BT = document_BT + memory.document_BS[:, -1:]
                key_document = torch.cat([memory.document_BS, document_BT], dim=1)
            memory.document_BS = key_document
            memory.position = offset + length
        positions = torch.arange(offset, offset + length, device=device)
        key_positions = torch.arange(offset + length, device=device) if offset else positions
        return Stream(starts_BT, document_BT, positions, key_document, key_positions, segments, memory)
