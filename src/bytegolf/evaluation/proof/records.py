"""Conditions that rest on records: what was trained on, sizes, budgets, and the score that is claimed."""

import math
from collections.abc import Mapping
from typing import Any

from bytegolf.evaluation.proof.verdict import (
    BUDGET,
    REPRODUCIBILITY,
    SIZE,
    SPLIT,
    Verdict,
    failed,
    not_checked,
    passed,
)
from bytegolf.text.ngrams import MIN_GRAMS
from bytegolf.tokens.cleanliness import Cleanliness
from bytegolf.training.budget import Budget

#: Bits per byte by which a score may differ from the claimed one.
CLAIM_TOLERANCE = 1e-4
#: The same where one was computed on a CPU and one on a GPU, which round differently.
OTHER_DEVICE_TOLERANCE = 2e-3


def split(found: Cleanliness | None, absent: str) -> Verdict:
    """No scored document was trained on, whole or in large part. `absent` says what is missing for None.

    Too few words to look for near copies leave the condition unchecked, not passed.
    """
    if found is None:
        return not_checked(SPLIT, absent)
    numbers = {
        "documents": found.documents,
        "exact_copies": found.exact_count,
        "exact": list(found.exact),
        "near_copies": found.near_count,
        "near": [
            {"id": copy.id, "shared": copy.shared, "looked_up": copy.looked_up, "share": copy.share}
            for copy in found.near
        ],
        "threshold": found.threshold,
        "ngrams_looked_up": found.checked_ngrams,
        "ngrams_in_training": found.shared_ngrams,
        "sketch_rate": found.sketch_rate,
        "short_documents": found.short_documents,
        "short_ngrams_looked_up": found.short_ngrams,
        "short_ngrams_in_training": found.short_shared_ngrams,
    }
    problems = []
    if found.exact_count:
        problems.append(f"{found.exact_count:,} documents were trained on, such as {found.exact[0]!r}")
    if found.near_count:
        worst = max(found.near, key=lambda copy: copy.share)
        problems.append(
            f"{found.near_count:,} are near copies of training text, such as {worst.id!r}, "
            f"{worst.shared} of whose {worst.looked_up} sampled 13-grams are in it"
        )
    if found.short_are_near:
        problems.append(
            f"the {found.short_documents:,} short ones share {found.short_shared_ngrams:,} of "
            f"{found.short_ngrams:,} sampled 13-grams with it"
        )
    if problems:
        return failed(SPLIT, f"Of {found.documents:,} documents {'; '.join(problems)}.", **numbers)
    if found.checked_ngrams < MIN_GRAMS:
        return not_checked(
            SPLIT,
            f"None of {found.documents:,} documents is in the training text by its hash, but with "
            f"{found.checked_ngrams:,} sampled 13-grams the text is too short to look for near copies.",
            **numbers,
        )
    return passed(
        SPLIT,
        f"None of {found.documents:,} documents is in the training text by its hash; of "
        f"{found.checked_ngrams:,} sampled 13-grams {found.shared_ngrams:,} are, and no document has more "
        f"than {100 * found.threshold:g} % of its own there by more than chance.",
        **numbers,
    )


def size(artifact_bytes: int, tokenizer_bytes: int, source_bytes: int, limit: int | None) -> Verdict:
    """Bytes on disk within the limit; beside them the 16 MB challenge's count, with the source."""
    challenge = artifact_bytes - tokenizer_bytes + source_bytes
    numbers = {
        "bytes": artifact_bytes,
        "limit_bytes": limit,
        "tokenizer_bytes": tokenizer_bytes,
        "source_bytes": source_bytes,
        "challenge_bytes": challenge,
    }
    counted = f"{challenge:,} as the 16 MB challenge counts (with source, without tokenizer)"
    if limit is None:
        return not_checked(
            SIZE,
            f"{artifact_bytes:,} bytes on disk, {counted}; the recipe has no limit, see --limit.",
            **numbers,
        )
    if artifact_bytes > limit:
        return failed(
            SIZE,
            f"{artifact_bytes:,} bytes on disk are {artifact_bytes - limit:,} over {limit:,}.",
            **numbers,
        )
    return passed(SIZE, f"{artifact_bytes:,} bytes on disk of {limit:,} allowed; {counted}.", **numbers)


def budget(allowed: Budget | None, records: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Training within the recipe's budget, by every record there is of it; one step over is tolerated.

    records: by their source, what was used of seconds, tokens and steps.
    """
    known = {source: used for source, used in records.items() if used}
    if allowed is None or not known:
        return not_checked(BUDGET, "The artifact has no record of its training, or no budget.")
    limits = {"seconds": allowed.seconds, "tokens": allowed.tokens, "steps": allowed.steps}
    numbers = {"limits": limits, "records": {source: dict(used) for source, used in known.items()}}
    over, missing = [], []
    shown: dict[str, list[str]] = {}
    for name, limit in limits.items():
        if limit is None:
            continue
        for source, used in known.items():
            value, steps = _number(used.get(name)), _number(used.get("steps"))
            if value is None:
                missing.append(f"{name} in {source}")
                continue
            step = value / steps if steps and name != "steps" else 0.0
            if value > limit + step:
                over.append(f"{value:,.6g} {name} by {source}, {limit:,.6g} are allowed")
            shown.setdefault(f"{value:,.6g} of {limit:,.6g} {name}", []).append(source)
    if over:
        return failed(BUDGET, f"Over the budget: {'; '.join(over)}.", **numbers)
    if missing:
        return not_checked(BUDGET, f"No record of {', '.join(missing)}.", **numbers)
    parts = [f"{used} by {' and '.join(sources)}" for used, sources in shown.items()]
    return passed(BUDGET, f"{'; '.join(parts)}.", **numbers)


def reproducibility(
    scored: float, claimed: float | None, absent: str, *, same_device: bool = True
) -> Verdict:
    """The score taken now beside the claimed one, in bits per byte. `absent` says why there is no claim."""
    if claimed is None:
        return not_checked(REPRODUCIBILITY, f"{scored:.6f} bits per byte; {absent}", scored=scored)
    tolerance = CLAIM_TOLERANCE if same_device else OTHER_DEVICE_TOLERANCE
    numbers = {
        "scored": scored,
        "claimed": claimed,
        "difference": scored - claimed,
        "tolerance": tolerance,
        "same_kind_of_device": same_device,
    }
    sentence = (
        f"{scored:.6f} bits per byte now, {claimed:.6f} claimed: {scored - claimed:+.1e}, "
        f"{tolerance:g} is allowed{'' if same_device else ' between a CPU and a GPU'}."
    )
    verdict = passed if abs(scored - claimed) <= tolerance else failed
    return verdict(REPRODUCIBILITY, sentence, **numbers)


def _number(value: Any) -> float | None:
    """A finite number of a record; None for anything else."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None
