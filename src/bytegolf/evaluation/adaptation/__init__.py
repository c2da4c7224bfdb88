"""Learning from a text while it is scored: test-time training on the adaptive track.

A learner gets tokens from a `Session`, which releases them only after their scores are written down; what it
changes is a copy of the model, or adapters on one, that live as long as the session. A match model learns by
heart: it looks up what the document said before.
"""

from bytegolf.evaluation.adaptation.lora import DocumentLora
from bytegolf.evaluation.adaptation.match_model import MatchModel
from bytegolf.evaluation.adaptation.phases import Phases
from bytegolf.evaluation.adaptation.sgd import ScoreFirstSgd

Adaptation = ScoreFirstSgd | DocumentLora | MatchModel

__all__ = ["Adaptation", "DocumentLora", "MatchModel", "Phases", "ScoreFirstSgd"]
