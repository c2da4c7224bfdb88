"""Causality: a score depends on the tokens before it in its document, and on nothing else.

Ids are changed in place, with all shapes and document starts kept, so that every number which does not depend
on them must come out with the same bits. First the model is tested alone, on packed rows, in its whole
distribution; then the whole way from a passage to its scores; then the windows themselves.

Shapes: B rows, T tokens in a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bytegolf.evaluation.passes import Watch, silent
from bytegolf.evaluation.proof.excerpts import Rows, excerpt, longest_window, other_ids, unaffected
from bytegolf.evaluation.proof.precision import score_tolerance
from bytegolf.evaluation.proof.subject import Passage, Subject, Witness
from bytegolf.evaluation.proof.verdict import CAUSALITY, Verdict, failed, passed

#: Scores that differ by more from one run to the next are not worth testing.
_MOST_NOISE = 1e-3
_LEAST_PASSAGE = 192
#: A whole passage is scored again for every so many positions tried on rows.
_POSITIONS_PER_RESCORING = 8
#: Documents of a passage at most, where learning begins after some.
_MOST_DOCUMENTS = 64


@dataclass
class Tally:
    """What was tried. worst: the largest change, in nats, where there should be none."""

    positions: int = 0
    scores: int = 0
    log_probabilities: int = 0
    rescorings: int = 0
    worst: float = 0.0
    offences: int = 0
    first: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def offend(self, change: float, sentence: str) -> None:
        self.worst = max(self.worst, change)
        self.offences += 1
        self.first = self.first or sentence


def causality(
    subject: Subject,
    passage: Passage,
    *,
    positions: int = 64,
    seed: int = 0,
    watch: Watch = silent,
) -> Verdict:
    """Changes ids at `positions` places or more of rows and passages drawn from the text."""
    generator = np.random.default_rng(seed)
    tally = Tally()
    _windows(subject, passage, tally, generator)
    rounds = max(2, positions // _POSITIONS_PER_RESCORING)
    _model(subject, passage, positions, tally, generator, lambda done: watch(done, positions + rounds))
    done = positions
    if not tally.offences:
        for _ in _whole_way(subject, passage, rounds, tally, generator):
            done += 1
            watch(done, positions + rounds)
    numbers = {
        "positions": tally.positions,
        "scores_compared": tally.scores,
        "log_probabilities_compared": tally.log_probabilities,
        "passages_scored_again": tally.rescorings,
        "offences": tally.offences,
        "worst_change_nats": tally.worst,
        **tally.extra,
    }
    if tally.offences:
        return failed(CAUSALITY, tally.first, **numbers)
    how = "stayed the same to the last bit"
    if tally.extra.get("noise_nats"):
        how = (
            f"stayed within {4 * tally.extra['noise_nats']:.1g} nats (learning here does not repeat its bits)"
        )
    return passed(
        CAUSALITY,
        f"Ids were changed at {tally.positions:,} places: {tally.scores:,} scores and "
        f"{tally.log_probabilities:,} log-probabilities that must not depend on them {how}.",
        **numbers,
    )


def _model(
    subject: Subject,
    passage: Passage,
    positions: int,
    tally: Tally,
    generator: np.random.Generator,
    watch: Any,
) -> None:
    """Packed rows under changes of later tokens, of other documents, and of other rows."""
    tried = round_ = 0
    rows = Rows.of(subject, passage, generator)
    base = rows.scores(subject)
    while tried < positions and not tally.offences:
        if round_ and round_ % 8 == 0:
            rows = Rows.of(subject, passage, generator)
            base = rows.scores(subject)
        changed, places = _change(rows, round_, generator)
        new_rows, changed = rows.changed(changed, subject, generator)
        keep_BT = torch.from_numpy(unaffected(changed.numpy(), rows.starts_BT.numpy()))
        scores = new_rows.scores(subject)
        _compare(subject, rows, new_rows, base, scores, keep_BT, changed, tally)
        tried += places
        round_ += 1
        watch(min(tried, positions))
    tally.positions += tried


def _change(rows: Rows, round_: int, generator: np.random.Generator) -> tuple[torch.Tensor, int]:
    """Which ids (B, T + 1) to change in this round, and at how many places changes begin."""
    count, length = rows.starts_BT.shape
    changed = np.zeros((count, length + 1), dtype=bool)
    kind = round_ % 3
    for row in range(count):
        borders = np.flatnonzero(rows.starts_BT[row].numpy())
        # Near the borders of documents and rows leaks are likeliest.
        near = [1, 2, length - 1, length, *borders, *(borders + 1), *(borders - 1)]
        near = [int(place) for place in near if 0 < place <= length]
        place = (
            int(generator.choice(near)) if generator.random() < 0.5 else int(generator.integers(1, length))
        )
        if kind == 0:
            changed[row, place:] = True
        elif kind == 1:
            changed[row, place] = True
        else:
            # All but one document, and in some rows everything.
            changed[row] = True
            edges = [0, *borders, length + 1]
            kept = int(generator.integers(len(edges) - 1))
            if row == 0 or generator.random() < 0.7:
                changed[row, edges[kept] : edges[kept + 1]] = False
    return torch.from_numpy(changed), count


def _compare(
    subject: Subject,
    rows: Rows,
    new_rows: Rows,
    base: tuple[torch.Tensor, torch.Tensor],
    new: tuple[torch.Tensor, torch.Tensor],
    keep_BT: torch.Tensor,
    changed_BS: torch.Tensor,
    tally: Tally,
) -> None:
    """Takes down every place of `keep_BT` whose distribution or score moved."""
    same_target_BT = rows.ids_BS[:, 1:] == new_rows.ids_BS[:, 1:]
    keep, same = keep_BT.to(base[0].device), same_target_BT.to(base[0].device)
    moved_BT = keep & (base[1] != new[1]).any(-1)
    moved_BT |= keep & same & (base[0] != new[0])
    tally.scores += int((keep & same).sum())
    tally.log_probabilities += int(keep.sum()) * base[1].shape[-1]
    if not bool(moved_BT.any()):
        return
    row, place = (int(x) for x in moved_BT.nonzero()[0])
    change = float((base[1][row, place] - new[1][row, place]).abs().nan_to_num(torch.inf).max())
    change = max(change, abs(float(base[0][row, place] - new[0][row, place])) * bool(same[row, place]))
    cause = _cause(subject, rows, changed_BS, row, place, base)
    tally.offend(
        change, f"The prediction after place {place} of row {row} moves by {change:.3g} nats with {cause}."
    )


def _cause(
    subject: Subject,
    rows: Rows,
    changed_BS: torch.Tensor,
    row: int,
    place: int,
    base: tuple[torch.Tensor, torch.Tensor],
) -> str:
    """Which of the changes moves the prediction at (row, place), tried one kind after the other."""
    changed = changed_BS.numpy()
    starts = np.flatnonzero(rows.starts_BT[row].numpy())
    first = max((int(start) for start in starts if start <= place), default=0)
    stop = min((int(start) for start in starts if start > place), default=changed.shape[1])
    kinds: list[tuple[str, tuple[slice, slice]]] = [
        ("the token that it predicts", (slice(row, row + 1), slice(place + 1, place + 2))),
        ("later tokens of its document", (slice(row, row + 1), slice(place + 2, stop))),
        ("the document before it in its row", (slice(row, row + 1), slice(0, first))),
        ("a document behind it in its row", (slice(row, row + 1), slice(stop, None))),
    ]
    generator = np.random.default_rng(0)
    for name, region in kinds:
        part = np.zeros_like(changed)
        part[region] = changed[region]
        new_rows, really = rows.changed(torch.from_numpy(part), subject, generator)
        if not bool(really.any()):
            continue
        nats, logs = new_rows.scores(subject)
        same_target = bool(new_rows.ids_BS[row, place + 1] == rows.ids_BS[row, place + 1])
        if not torch.equal(logs[row, place], base[1][row, place]) or (
            same_target and not torch.equal(nats[row, place], base[0][row, place])
        ):
            return name
    return "another row of its batch"


def _whole_way(
    subject: Subject, passage: Passage, rounds: int, tally: Tally, generator: np.random.Generator
) -> Iterator[None]:
    """Passages scored as the text was: the scores before a change stay, and so do those of a shorter text."""
    length = max(_LEAST_PASSAGE, 2 * longest_window(subject, passage) + 64, 2 * subject.chunk + 64)
    # Enough of them that something is learned between documents, unless that takes very many.
    documents = subject.documents + 2
    documents = documents if subject.documents and documents <= _MOST_DOCUMENTS else 0
    part = excerpt(subject, passage, length, generator, documents=documents)
    first = subject.score(part)
    base = first.nats
    noise = float(np.abs(subject.score(part).nats - base).max())
    if noise:
        tally.extra["noise_nats"] = noise
        if not noise <= _MOST_NOISE:
            tally.offend(noise, f"The same passage scored twice differs by {noise:.3g} nats.")
            return
    for number in range(rounds if not subject.chunk else max(2, rounds // 4)):
        cut = int(generator.integers(1, part.targets))
        changed, keep = _changed_passage(subject, part, first, cut, number)
        ids = np.where(changed[0], other_ids(part.ids, subject, generator), part.ids)
        keep &= ids[1:] == part.ids[1:]
        again = subject.score(Passage(ids, part.starts))
        keep &= (first.times > 0) & (again.times > 0)
        _compare_scores(base, again.nats, keep, 4 * noise, cut, tally)
        yield
    if not subject.track.learns:
        # How fast a model learns may depend on the length of the text, which a packed file states.
        _shortened(subject, part, first, tally, generator)


def _changed_passage(
    subject: Subject, part: Passage, first: Witness, cut: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which ids (1, N + 1) to change, those from `cut` on, and which scores (N,) must stay.

    On the adaptive track "from … on" means the order of the session that was seen, `first`: documents may be
    scored in another order than that of the text, and may learn from all that is scored before them.
    """
    starts = part.is_start
    changed = np.zeros((1, part.targets + 1), dtype=bool)
    if subject.track.learns:
        passes = np.where(first.times > 0, first.passes, first.passes.max() + 1)
        index = np.arange(part.targets)
        changed[0, 1:] = (passes > passes[cut - 1]) | (passes == passes[cut - 1]) & (index >= cut - 1)
    else:
        changed[0, cut:] = True
    if number % 2 and not subject.track.learns and starts[:cut].sum() > 1:
        # Documents do not see those before them either.
        changed[0, : int(np.flatnonzero(starts[:cut])[-1])] = True
    later = changed[0, 1:].copy()
    changed &= part.ids != subject.tokenizer.bos
    keep = unaffected(changed, starts[None])[0]
    return changed, keep & ~later if subject.track.learns else keep


def _compare_scores(
    base: np.ndarray, new: np.ndarray, keep: np.ndarray, tolerance: float, cut: int, tally: Tally
) -> None:
    tally.rescorings += 1
    tally.positions += 1
    tally.scores += int(keep.sum())
    moved = keep & ~(np.abs(new - base) <= tolerance)
    if moved.any():
        place = int(np.argmax(moved))
        change = float(np.abs(new - base)[place])
        where = f"from token {cut} of a passage on" if place < cut else f"before token {place} of a passage"
        tally.offend(
            change,
            f"The score of target {place} moves by {change:.3g} nats with what comes {where}.",
        )


def _shortened(
    subject: Subject, part: Passage, base: Witness, tally: Tally, generator: np.random.Generator
) -> None:
    """A text that ends earlier has the same scores up to there, but for rounding: its batches differ."""
    cut = int(generator.integers(part.targets // 2, part.targets))
    starts = part.starts[part.starts < cut]
    new = subject.score(Passage(part.ids[: cut + 1], starts))
    tolerance = max(score_tolerance(subject.model), 4 * tally.extra.get("noise_nats", 0.0))
    tally.extra["shortened_tolerance_nats"] = tolerance
    tally.rescorings += 1
    tally.scores += cut
    both = (new.times > 0) & (base.times[:cut] > 0)
    difference = np.abs(new.nats - base.nats[:cut]) * both
    tally.extra["shortened_difference_nats"] = float(difference.max())
    if not difference.max() <= tolerance:
        place = int(np.argmax(~(difference <= tolerance)))
        tally.offend(
            float(difference[place]),
            f"The score of target {place} moves by {difference[place]:.3g} nats if the text ends at {cut}.",
        )


def _windows(subject: Subject, passage: Passage, tally: Tally, generator: np.random.Generator) -> None:
    """Where a target's window begins is the same however long the text is."""
    reach = min(passage.targets, 4 * longest_window(subject, passage) + 1024)
    whole = _context(subject, passage, reach)
    cuts = [1, reach, *generator.integers(1, reach + 1, 14)]
    tally.extra["text_lengths_tried"] = len(cuts)
    for cut in map(int, cuts):
        shorter = Passage(passage.ids[: cut + 1], passage.starts[passage.starts < cut])
        found = _context(subject, shorter, cut)
        differs = (found != whole[:cut]) & (found >= 0) & (whole[:cut] >= 0)
        if differs.any():
            place = int(np.argmax(differs))
            tally.offend(
                0.0,
                f"The window of target {place} begins at {found[place]} in a text of {cut} targets, "
                f"but at {whole[place]} in one of {passage.targets}.",
            )
            return


def _context(subject: Subject, passage: Passage, reach: int) -> np.ndarray:
    """int64 (reach,): the start of each target's window; −1 where it is in none."""
    found = np.full(reach, -1, dtype=np.int64)
    for window in subject.windows(passage):
        if window.scored >= reach:
            break
        found[window.scored : min(window.stop, reach)] = window.start
    return found
