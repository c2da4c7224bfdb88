"""Causal language models of the Hugging Face library as readers, for reference."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.evaluation.core.reader import chosen


class HuggingFaceReader:
    """Any model that `AutoModelForCausalLM` loads, by its folder or its name.

    On a GPU it computes in bfloat16 under autocast, as the protocol's own runner does, on a CPU in float32.
    Rows are as long as its configuration says (`max_position_embeddings`). trusted: code that the model
    brings along may run.
    """

    def __init__(self, name: str, device: torch.device, *, trusted: bool = False) -> None:
        """Raises `RecipeError` without the library, or if it cannot load the model."""
        try:
            import transformers
        except ImportError as error:
            raise RecipeError(
                f"{name!r} is no .bg file, so it is taken for a Hugging Face model, which needs a package: "
                "pip install 'bytegolf[hf]'"
            ) from error
        try:
            library: Any = transformers
            self._tokenizer = library.AutoTokenizer.from_pretrained(name, trust_remote_code=trusted)
            model = library.AutoModelForCausalLM.from_pretrained(
                name, trust_remote_code=trusted, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise RecipeError(
                f"{name!r} is neither a .bg file nor a model that transformers loads: {first}"
            ) from error
        self._model = model.to(device).eval()
        self._device = device
        config = model.config
        bos = self._tokenizer.bos_token_id
        self._bos = self._tokenizer.eos_token_id if bos is None else bos
        if self._bos is None:
            raise RecipeError(f"the tokenizer of {name!r} has no id that begins or ends a text")
        self.name = Path(name).name if Path(name).is_dir() else name
        self.digest = getattr(config, "_commit_hash", None) or _fingerprint(model)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        self.precision = "bfloat16" if device.type == "cuda" else "float32"
        self.tokens_per_pass = 16_384 if device.type == "cuda" else 2_048

    def encode(self, text: str) -> list[int]:
        return [self._bos, *self._tokenizer.encode(text, add_special_tokens=False)]

    @torch.no_grad()
    def predict(self, ids_BL: Tensor, lengths_B: Tensor, places_M: Tensor) -> tuple[Tensor, Tensor]:
        wanted_M = ids_BL.flatten()[places_M + 1].to(self._device)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self._device.type == "cuda"):
            # Rows are padded behind their ends, where a causal model does not look.
            logits_BLV = self._model(ids_BL.to(self._device), use_cache=False).logits
        logits_MV = logits_BLV.flatten(0, 1)[places_M.to(self._device)].float()
        nats_M, likeliest_M = chosen(torch.log_softmax(logits_MV, dim=1), wanted_M)
        return nats_M.cpu(), likeliest_M.cpu()


def _fingerprint(model: torch.nn.Module) -> str:
    """Tells models of one folder apart that were trained on: the sums of their weights."""
    sums = [float(weight.detach().double().sum()) for weight in model.parameters()]
    return f"{len(sums)} weights, {sum(sums):.12g}"
