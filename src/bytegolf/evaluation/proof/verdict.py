"""What testing one condition came to."""

from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["pass", "fail", "not checked"]

CAUSALITY = "causality"
NORMALIZATION = "normalization"
BYTES = "each byte once"
ORDER = "order"
SPLIT = "split"
SIZE = "size"
BUDGET = "budget"
REPRODUCIBILITY = "reproducibility"
ROUND_TRIP = "round trip"


@dataclass(frozen=True)
class Verdict:
    """One condition. numbers: plain data behind the sentence."""

    condition: str
    outcome: Outcome
    numbers: dict[str, Any]
    sentence: str


def passed(condition: str, sentence: str, **numbers: Any) -> Verdict:
    return Verdict(condition, "pass", numbers, sentence)


def failed(condition: str, sentence: str, **numbers: Any) -> Verdict:
    return Verdict(condition, "fail", numbers, sentence)


def not_checked(condition: str, reason: str, **numbers: Any) -> Verdict:
    return Verdict(condition, "not checked", numbers, reason)
