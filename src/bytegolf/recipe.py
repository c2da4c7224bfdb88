"""A recipe: everything that decides a run, as one tree of frozen dataclasses."""

from dataclasses import dataclass, replace

from bytegolf.compression.spec import Compression
from bytegolf.errors import RecipeError
from bytegolf.evaluation.adaptation import Adaptation
from bytegolf.evaluation.windows import Chunked, Sliding, WindowPlan
from bytegolf.model.spec import Model
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import SentencePiece, Tokens
from bytegolf.training.spec import Training


@dataclass(frozen=True)
class Evaluation:
    """How the artifact is scored, and what else the report shows.

    plans: windows; the first is the headline. adaptation: learning from the text while it is scored, for a
    second score under the headline's windows, or its own if it has any. prompts: beginnings that the model
    continues, with sample_tokens tokens each. coloured_bytes: how much held-out text is shown byte by byte.
    """

    plans: tuple[WindowPlan, ...] = (Sliding(1024, 64), Chunked(1024))
    adaptation: Adaptation | None = None
    prompts: tuple[str, ...] = ("",)
    sample_tokens: int = 200
    coloured_bytes: int = 12_000

    def __post_init__(self) -> None:
        if not self.plans:
            raise RecipeError("evaluation.plans is empty; give at least one way to score")
        if self.sample_tokens < 0 or self.coloured_bytes < 0:
            raise RecipeError("evaluation.sample_tokens and coloured_bytes must not be negative")


@dataclass(frozen=True)
class Recipe:
    """Text, tokenizer, network, training, compression and evaluation of a run.

    prepared: folder that keeps the tokens for other runs; empty keeps them in the run's own folder.
    """

    name: str
    training: Training
    text: Text = Text(sources=("kjv",))
    tokens: Tokens = SentencePiece()
    model: Model = Model()
    compression: Compression = Compression()
    evaluation: Evaluation = Evaluation()
    prepared: str = ""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise RecipeError(f"name={self.name!r}; give a short name without slashes")

    def with_vocabulary(self, vocabulary: int) -> "Recipe":
        """The recipe with the tokenizer's number of ids in the model, which must not say otherwise."""
        if self.model.vocabulary not in (0, vocabulary):
            raise RecipeError(
                f"model.vocabulary={self.model.vocabulary}, but the tokenizer has {vocabulary} ids; "
                "set model.vocabulary to 0, which takes the tokenizer's"
            )
        return replace(self, model=replace(self.model, vocabulary=vocabulary))
