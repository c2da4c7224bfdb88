"""A Llama in the format of llama2.c as a reader: another model than ours, in another library's weights."""

import itertools
import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from bytegolf.evaluation.core.reader import chosen


class Llama2cReader:
    """Reads checkpoint and tokenizer into memory. Shapes: B rows, L ids, H heads, K key heads, C channels."""

    name, digest, precision, context, tokens_per_pass = "llama2.c", "fixed", "float32", 512, 4096

    def __init__(self, checkpoint: Path, tokenizer: Path) -> None:
        data = checkpoint.read_bytes()
        sizes = struct.unpack("7i", data[:28])
        self.width, hidden, self.layers, self.heads, self.key_heads, vocabulary, rows = sizes
        self.channels = self.width // self.heads
        left = torch.from_numpy(np.frombuffer(data[28:], dtype=np.float32).copy())

        def take(*shape: int) -> Tensor:
            nonlocal left
            count = math.prod(shape)
            part, left = left[:count].view(shape), left[count:]
            return part

        keys = self.key_heads * self.channels
        self.table_VD = take(vocabulary, self.width)
        self.read_norms = take(self.layers, self.width)
        self.queries = take(self.layers, self.width, self.width)
        self.keys, self.values = (take(self.layers, keys, self.width) for _ in range(2))
        self.out = take(self.layers, self.width, self.width)
        self.mlp_norms = take(self.layers, self.width)
        self.gate = take(self.layers, hidden, self.width)
        self.down = take(self.layers, self.width, hidden)
        self.up = take(self.layers, hidden, self.width)
        self.last_norm = take(self.width)
        assert len(left) == rows * self.channels  # the table of angles, which is computed here
        self._read_pieces(tokenizer.read_bytes(), vocabulary)

    def _read_pieces(self, data: bytes, vocabulary: int) -> None:
        self.pieces: list[bytes] = []
        self.ranks: dict[bytes, tuple[float, int]] = {}
        self._known: dict[str, list[int]] = {}
        place = 4
        for number in range(vocabulary):
            score, length = struct.unpack("fi", data[place : place + 8])
            piece = data[place + 8 : place + 8 + length]
            place += 8 + length
            self.pieces.append(piece)
            self.ranks.setdefault(piece, (score, number))
            assert b" " not in piece[1:]

    def encode(self, text: str) -> list[int]:
        """Behind id 1 the ids of the words; no piece reaches across a space."""
        words = re.findall(" [^ ]*", f" {text}") if text else []
        return [1, *(number for word in words for number in self._word(word))]

    def _word(self, word: str) -> list[int]:
        """Characters, or bytes as their ids from 3 on; then the best pair that is a piece becomes one."""
        if word not in self._known:
            ids: list[int] = []
            for character in word:
                own = self.ranks.get(character.encode())
                ids += [own[1]] if own else [byte + 3 for byte in character.encode()]
            while pairs := [
                (*self.ranks[self.pieces[a] + self.pieces[b]], place)
                for place, (a, b) in enumerate(itertools.pairwise(ids))
                if self.pieces[a] + self.pieces[b] in self.ranks
            ]:
                best = max(score for score, _, _ in pairs)
                _, joined, place = next(pair for pair in pairs if pair[0] == best)
                ids[place : place + 2] = [joined]
            self._known[word] = ids
        return self._known[word]

    def logits(self, ids_BL: Tensor) -> Tensor:
        x = self.table_VD[ids_BL]
        length = ids_BL.shape[1]
        rates = 10000.0 ** (-torch.arange(0, self.channels, 2) / self.channels)
        angles = torch.arange(length)[:, None] * rates
        turn = torch.polar(torch.ones_like(angles), angles)

        def heads(y: Tensor, count: int, *, turned: bool) -> Tensor:
            y_BHLC = y.view(*y.shape[:2], count, self.channels).transpose(1, 2)
            if turned:
                paired = torch.view_as_complex(y_BHLC.unflatten(-1, (-1, 2)).contiguous())
                y_BHLC = torch.view_as_real(paired * turn).flatten(-2)
            return y_BHLC

        for layer in range(self.layers):
            read = rms_norm(x, x.shape[-1:], self.read_norms[layer], 1e-5)
            q = heads(read @ self.queries[layer].T, self.heads, turned=True)
            k = heads(read @ self.keys[layer].T, self.key_heads, turned=True)
            v = heads(read @ self.values[layer].T, self.key_heads, turned=False)
            mixed = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + mixed.transpose(1, 2).flatten(2) @ self.out[layer].T
            read = rms_norm(x, x.shape[-1:], self.mlp_norms[layer], 1e-5)
            x = x + (silu(read @ self.gate[layer].T) * (read @ self.up[layer].T)) @ self.down[layer].T
        return rms_norm(x, x.shape[-1:], self.last_norm, 1e-5) @ self.table_VD.T

    @torch.no_grad()
    def predict(self, ids_BL: Tensor, lengths_B: Tensor, places_M: Tensor) -> tuple[Tensor, Tensor]:
        wanted_M = ids_BL.flatten()[places_M + 1]
        logs_MV = torch.log_softmax(self.logits(ids_BL).flatten(0, 1)[places_M], dim=1)
        return chosen(logs_MV, wanted_M)
