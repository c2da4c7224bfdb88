"""The Python interface to an artifact: score text, continue text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf.artifact.loading import load
from bytegolf.evaluation.bits import Score, score, token_stream
from bytegolf.evaluation.windows import PerDocument, WindowPlan
from bytegolf.model.spec import LanguageModel
from bytegolf.serving.generate import text as generate_text
from bytegolf.tokens.tokenizer import Tokenizer
from bytegolf.training.ranks import chosen_device


@dataclass(frozen=True)
class Artifact:
    """A model with its tokenizer. recipe and training are the plain data of the run that made it.

    context: tokens that the model was trained to look back on.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    recipe: dict[str, Any]
    training: dict[str, Any]
    context: int

    def score(self, text: str | bytes, plan: WindowPlan | None = None) -> Score:
        """How well the model predicts `text`, read as one document.

        The result has bits_per_byte, nats_per_token, and both nats and bytes of every token; its last token
        is the end of the document. Without `plan`, windows of the training length advance by half of it.
        Raises `TextError` for an empty text.
        """
        if plan is None:
            plan = PerDocument(self.context, max(1, self.context // 2))
        ids, starts = token_stream(self.tokenizer, [text])
        return score(self.model, self.tokenizer, ids, starts, plan)

    def generate(
        self,
        prompt: str = "",
        *,
        tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = 0,
    ) -> str:
        """Up to `tokens` tokens that continue `prompt`; ends early where the model ends the document.

        temperature 0 always takes the likeliest token. seed None draws anew each time.
        """
        return generate_text(
            self.model,
            self.tokenizer,
            prompt,
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            context=self.context,
        )


def open_artifact(path: str | Path, *, device: str = "auto") -> Artifact:
    """See `bytegolf.load`."""
    loaded = load(Path(path), device=chosen_device(device))
    return Artifact(loaded.model, loaded.tokenizer, loaded.recipe, loaded.training, loaded.context)
