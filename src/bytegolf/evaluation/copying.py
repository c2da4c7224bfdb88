"""How well a model copies what stood earlier, by how far back it stood.

Two questions. In rows of random tokens of which a few repeat some tokens later, there is nothing to go by but
the repeat. In a text, what followed a pair of tokens when it stood in the document before is worth knowing
("induction", Olsson et al. 2022, arXiv 2209.11895). Nothing here is a score in bits per byte.

Shapes: B rows, T tokens, D width, M places that are asked for, V vocabulary, N targets of a stream.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bytegolf.errors import RecipeError, TextError
from bytegolf.evaluation.passes import fitted, on_device, on_host
from bytegolf.evaluation.windows import Sliding
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.tokenizer import Tokenizer

#: Tokens of a forward pass, and log-probabilities in memory at a time.
_TOKENS_PER_PASS = {"cuda": 65_536, "cpu": 4_096}
_PROBABILITIES = 2**27


@dataclass(frozen=True)
class Answers:
    """How often the likeliest token was the right one, and the mean −ln p of the right one, over `tokens`.

    Both are None of no tokens.
    """

    tokens: int
    accuracy: float | None
    nats: float | None

    @staticmethod
    def of(right_M: np.ndarray, nats_M: np.ndarray) -> "Answers":
        if not len(right_M):
            return Answers(0, None, None)
        return Answers(len(right_M), float(right_M.mean()), float(nats_M.mean()))


@dataclass(frozen=True)
class Repeat:
    """A segment met again `distance` tokens later, and met for the first time, which is chance."""

    distance: int
    again: Answers
    first: Answers


@dataclass(frozen=True)
class Bucket:
    """Targets whose preceding pair of tokens last stood `distance` to 2 · `distance` − 1 tokens before.

    copied: the share of them for which the token that followed then is right. repeated: that share alone.
    """

    distance: int
    answers: Answers
    copied: float | None
    repeated: Answers


@dataclass(frozen=True)
class Induction:
    """Targets whose preceding pair stood in the document before, within sight; beside them all targets."""

    everything: Answers
    paired: Answers
    buckets: tuple[Bucket, ...]


def ordinary_ids(tokenizer: Tokenizer) -> np.ndarray:
    """Ids that stand for printable text and are what that text is encoded as, in order.

    So neither bytes of which only a fallback is made, nor markers, nor pieces that are never written.
    """
    ids = [
        number
        for number, piece in enumerate(tokenizer.token_bytes)
        if piece and _printable(piece) and tokenizer.encode(piece).tolist() == [number]
    ]
    return np.array(ids, dtype=np.int64)


@torch.no_grad()
def copying(
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    length: int = 1024,
    segment: int = 32,
    rows: int = 64,
    seed: int = 0,
) -> tuple[Repeat, ...]:
    """Accuracy on a repeated segment of random tokens, for distances of `segment`, twice that … in `length`.

    Each row opens a document: bos, then `length` ordinary ids, no two alike if there are so many. The last
    `segment` are those that stood `distance` before, and all distances share the other tokens. Of a segment
    the second token counts and those behind it, since nothing tells that it begins.
    """
    if segment < 2 or 2 * segment > length:
        raise RecipeError(f"segment={segment} does not fit twice into length={length}; give 2 or more tokens")
    ordinary = ordinary_ids(tokenizer)
    if not len(ordinary):
        raise TextError("the tokenizer has no ordinary ids to draw rows from; take another")
    draw = np.random.default_rng(seed)
    drawn_BT = np.stack([draw.choice(ordinary, length, replace=len(ordinary) < length) for _ in range(rows)])
    found, distance = [], segment
    while distance + segment <= length:
        ids_BT = np.concatenate([np.full((rows, 1), tokenizer.bos), drawn_BT], axis=1)
        # Row ends with the segment; ids_BT[:, t + 1] is the target of place t.
        ids_BT[:, -segment:] = ids_BT[:, -segment - distance : length + 1 - distance]
        again = np.arange(length - segment + 1, length)
        with fitted(model, length):
            found.append(Repeat(distance, *_at(model, ids_BT, (again, again - distance))))
        distance *= 2
    return tuple(found)


@torch.no_grad()
def induction(
    model: LanguageModel,
    ids: np.ndarray,
    starts: np.ndarray,
    *,
    length: int = 1024,
    targets: int = 262_144,
) -> Induction:
    """Accuracy on a text's tokens by how far back the two before them last stood together.

    `ids` (N + 1,) and `starts` as `token_stream` gives them, of which the first `targets` targets count. They
    are read in windows of `length` that advance by half of it, and a pair counts where its window shows it.
    """
    count = min(targets, len(ids) - 1)
    ids = ids[: count + 1].astype(np.int64)
    is_start = np.zeros(count + 1, dtype=bool)
    is_start[starts[starts <= count]] = True
    back = _last_stood(ids[:count], is_start[:count])
    right, nats = np.zeros(count, dtype=bool), np.zeros(count)
    with fitted(model, length):
        for index_BT, scored_BT in _windows(count, length, _tokens_per_pass(model)):
            scored = index_BT[scored_BT]
            places = np.flatnonzero(scored_BT)
            right[scored], nats[scored] = _answers(
                model, ids[index_BT], is_start[index_BT], places, ids[scored + 1]
            )
            # A pair that last stood `back` tokens before has its first token one further back.
            hidden_BT = scored_BT & (back[index_BT] + 1 > index_BT - index_BT[:, :1])
            back[index_BT[hidden_BT]] = 0
    place_M = np.flatnonzero(back)
    copied = np.zeros(count, dtype=bool)
    copied[place_M] = ids[place_M + 1] == ids[place_M - back[place_M] + 1]
    buckets = []
    for power in range(int(back.max(initial=0)).bit_length()):
        inside = (back >> power) == 1
        answers, repeated = (Answers.of(right[which], nats[which]) for which in (inside, inside & copied))
        share = repeated.tokens / answers.tokens if answers.tokens else None
        buckets.append(Bucket(1 << power, answers, share, repeated))
    return Induction(Answers.of(right, nats), Answers.of(right[place_M], nats[place_M]), tuple(buckets))


def as_rows(found: tuple[Repeat, ...] | Induction) -> Any:
    """What was found as plain JSON values."""
    return [asdict(repeat) for repeat in found] if isinstance(found, tuple) else asdict(found)


def _at(model: LanguageModel, ids_BT: np.ndarray, groups: tuple[np.ndarray, ...]) -> list[Answers]:
    """Answers at groups of places, the same in all rows, each of which opens a document: ids (B, T + 1)."""
    places_P = np.concatenate(groups)
    found = []
    rows = max(1, _tokens_per_pass(model) // (ids_BT.shape[1] - 1))
    for first in range(0, len(ids_BT), rows):
        part_BT = ids_BT[first : first + rows]
        inputs_BT = part_BT[:, :-1]
        starts_BT = np.zeros(inputs_BT.shape, dtype=bool)
        starts_BT[:, 0] = True
        places_BP = np.arange(len(part_BT))[:, None] * inputs_BT.shape[1] + places_P
        targets_M = part_BT[:, places_P + 1].reshape(-1)
        answers = _answers(model, inputs_BT, starts_BT, places_BP.reshape(-1), targets_M)
        found.append([part_M.reshape(places_BP.shape) for part_M in answers])
    right_BP, nats_BP = (np.concatenate(parts) for parts in zip(*found, strict=True))
    borders = np.cumsum([len(places) for places in groups])[:-1]
    by_group = zip(*(np.split(part_BP, borders, axis=1) for part_BP in (right_BP, nats_BP)), strict=True)
    return [Answers.of(right.reshape(-1), nats.reshape(-1)) for right, nats in by_group]


def _answers(
    model: LanguageModel,
    inputs_BT: np.ndarray,
    starts_BT: np.ndarray,
    places_M: np.ndarray,
    targets_M: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each target was the likeliest token, bool (M,), and its −ln p, float64 (M,)."""
    inputs, places, targets = (
        on_device(np.ascontiguousarray(part), model.device) for part in (inputs_BT, places_M, targets_M)
    )
    h_MD = model.hidden_at(inputs, on_host(starts_BT, model.device), places)
    right: list[Tensor] = []
    nats: list[Tensor] = []
    step = max(1, _PROBABILITIES // model.spec.vocabulary)
    for h_PD, targets_P in zip(h_MD.split(step), targets.split(step), strict=True):
        logs_PV = model.distribution(h_PD)
        right.append(logs_PV.argmax(dim=1) == targets_P)
        nats.append(-logs_PV.gather(1, targets_P[:, None])[:, 0].double())
    return torch.cat(right).cpu().numpy(), torch.cat(nats).cpu().numpy()


def _tokens_per_pass(model: LanguageModel) -> int:
    return _TOKENS_PER_PASS.get(model.device.type, 4_096)


def _printable(piece: bytes) -> bool:
    try:
        return piece.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


def _last_stood(ids_N: np.ndarray, is_start_N: np.ndarray) -> np.ndarray:
    """How many tokens before each the pair that it ends last stood in its document; 0 if it did not."""
    document_N = np.cumsum(is_start_N)
    whole = np.flatnonzero(~is_start_N[1:]) + 1
    pairs_M3 = np.stack([document_N[whole], ids_N[whole - 1], ids_N[whole]])
    order = np.lexsort((whole, *pairs_M3[::-1]))
    same = (pairs_M3[:, order][:, 1:] == pairs_M3[:, order][:, :-1]).all(axis=0)
    sorted_M = whole[order]
    back_N = np.zeros(len(ids_N), dtype=np.int64)
    back_N[sorted_M[1:][same]] = (sorted_M[1:] - sorted_M[:-1])[same]
    return back_N


def _windows(count: int, length: int, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Offsets (B, T) of windows over `count` tokens, each with what is asked of it, some at a time."""
    plan = list(Sliding(length, max(1, length // 2)).windows(np.zeros(1, dtype=np.int64), count))
    rows = max(1, tokens // length)
    for first in range(0, len(plan), rows):
        spans_B3 = np.array([(w.start, w.scored, w.stop) for w in plan[first : first + rows]])
        longest = int((spans_B3[:, 2] - spans_B3[:, 0]).max())
        index_BT = spans_B3[:, :1] + np.arange(longest)
        scored_BT = (index_BT >= spans_B3[:, 1:2]) & (index_BT < spans_B3[:, 2:])
        # A short window is continued into the following tokens; being causal, its answers don't change.
        yield np.minimum(index_BT, count - 1), scored_BT
