"""The configuration of an exported model, as the Hugging Face library reads it."""

from typing import Any

from transformers import PretrainedConfig


class BytegolfConfig(PretrainedConfig):
    """spec: the network, as a recipe's JSON has it. context: tokens that it was trained to look back on."""

    model_type = "bytegolf"

    def __init__(self, spec: dict[str, Any] | None = None, context: int = 1024, **settings: Any) -> None:
        spec = spec or {}
        self.spec, self.max_position_embeddings = spec, context
        # What other programs look for under these names.
        self.vocab_size = spec.get("vocabulary", 0)
        self.hidden_size = spec.get("width", 0)
        self.num_hidden_layers = len(spec.get("layers", ()))
        settings.pop("max_position_embeddings", None)
        settings.setdefault("tie_word_embeddings", False)
        super().__init__(**settings)
