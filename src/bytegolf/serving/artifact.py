"""The Python interface to an artifact: score text, continue text, pack text."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf.artifact.container import Contents, read_artifact
from bytegolf.artifact.loading import unpack_model
from bytegolf.errors import RecipeError
from bytegolf.evaluation.adaptation import Adaptation
from bytegolf.evaluation.bits import Score, score, token_stream
from bytegolf.evaluation.codec import pack, unpack
from bytegolf.evaluation.packed import packed_to_bytes, read_packed
from bytegolf.evaluation.windows import PerDocument, Sliding, WindowPlan
from bytegolf.model.spec import LanguageModel
from bytegolf.serving.generate import text as generate_text
from bytegolf.tokens.tokenizer import Tokenizer
from bytegolf.training.ranks import chosen_device
from bytegolf.tree import from_json


@dataclass(frozen=True)
class Artifact:
    """A model with its tokenizer. recipe and training are the plain data of the run that made it.

    context: tokens that the model was trained to look back on. digest: SHA-256 of the file. adaptation: how
    the recipe lets the model learn from a text while it is scored, if it does.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    recipe: dict[str, Any]
    training: dict[str, Any]
    context: int
    digest: bytes
    adaptation: Adaptation | None = None

    def required_adaptation(self) -> Adaptation:
        """The recipe's adaptation. Raises `RecipeError` if it has none."""
        if self.adaptation is None:
            raise RecipeError(
                "the artifact's recipe names no adaptation; train with --evaluation.adaptation MatchModel, "
                "DocumentLora or ScoreFirstSgd"
            )
        return self.adaptation

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

    def pack(self, data: bytes) -> bytes:
        """`data` without loss in about the bytes that `score` promises; `unpack` gives them back.

        Raises `PackedError` if the artifact's tokenizer cannot restore every text.
        """
        plan = Sliding(self.context, max(1, self.context // 2))
        return packed_to_bytes(pack(self.model, self.tokenizer, data, self.digest, plan).packed)

    def unpack(self, packed: bytes) -> bytes:
        """What `pack` was given, with this artifact on this kind of machine.

        Raises `PackedError` if the file is damaged, of another artifact, or cannot be restored here.
        """
        return unpack(
            self.model,
            self.tokenizer,
            read_packed(packed),
            self.digest,
            adaptation=self.adaptation,
        )


def artifact_in(path: Path) -> Path:
    """`path`, or the artifact of the run whose folder it is."""
    return path / "artifact.bg" if (path / "artifact.bg").is_file() else path


def open_artifact(path: str | Path, *, device: str = "auto") -> Artifact:
    """See `bytegolf.load`."""
    return artifact_of(read_artifact(Path(path)), Path(path), device=device)


def artifact_of(contents: Contents, path: Path, *, device: str = "auto") -> Artifact:
    """The artifact at `path`, whose contents have been read."""
    loaded = unpack_model(contents, str(path), chosen_device(device))
    evaluation = loaded.recipe.get("evaluation")
    adaptation = evaluation.get("adaptation") if isinstance(evaluation, dict) else None
    return Artifact(
        loaded.model,
        loaded.tokenizer,
        loaded.recipe,
        loaded.training,
        loaded.context,
        digest=hashlib.sha256(path.read_bytes()).digest(),
        adaptation=None if adaptation is None else from_json(Adaptation, adaptation, "adaptation"),
    )
