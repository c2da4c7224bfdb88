"""From an artifact file to a model that scores and writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bytegolf.artifact.container import Contents, read_artifact
from bytegolf.compression.grid import Quantized
from bytegolf.compression.storage import dequantize_model
from bytegolf.errors import ArtifactError, RecipeError, TokenizerError
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.tokens.tokenizer import Tokenizer, tokenizer_from_bytes
from bytegolf.tree import from_json

# Two of the mixer, one of the MLP, one of the residual stream.
_LEAST_TENSORS = 4


@dataclass(frozen=True)
class Loaded:
    """What an artifact holds, ready for use. recipe and training are plain JSON data.

    context: tokens of a training row, as far back as the model was trained to look.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    recipe: dict[str, Any]
    training: dict[str, Any]
    context: int


def load(path: Path, *, device: torch.device | str = "cpu") -> Loaded:
    """Reads an artifact. Raises `ArtifactError` for any file that is not a sound one.

    The model computes in float32 on CPUs and in bfloat16 on GPUs.
    """
    return unpack_model(read_artifact(path), str(path), torch.device(device))


def unpack_model(contents: Contents, source: str, device: torch.device) -> Loaded:
    """The model and tokenizer of an artifact's contents; `source` names them in errors."""
    model_data = contents.recipe.get("model")
    layers = model_data.get("layers") if isinstance(model_data, dict) else None
    # Every layer has more weights than these; a list of a hundred thousand would take minutes to build.
    if isinstance(layers, list) and _LEAST_TENSORS * len(layers) > len(contents.tensors):
        raise ArtifactError(
            f"{source} describes {len(layers)} layers but holds {len(contents.tensors)} tensors; "
            "it was not written by this program"
        )
    try:
        spec = from_json(Model, contents.recipe.get("model"), "model")
        context = _context(contents.recipe.get("training"))
        tokenizer = tokenizer_from_bytes(contents.tokenizer)
    except (RecipeError, TokenizerError) as error:
        raise ArtifactError(f"{source} does not describe a model of this version: {error}") from error
    if spec.vocabulary != tokenizer.vocabulary:
        raise ArtifactError(
            f"{source} has a model of {spec.vocabulary} ids but a tokenizer of {tokenizer.vocabulary}; "
            "it was not written by this program"
        )
    # Built without memory first: a hostile recipe must not make us allocate what its tensors don't hold.
    try:
        with torch.device("meta"):
            shapes = {name: parameter.shape for name, parameter in spec.build().named_parameters()}
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise ArtifactError(f"{source} describes a model that cannot be built: {reason}") from error
    found = {
        name: (tensor.ints if isinstance(tensor, Quantized) else tensor).shape
        for name, tensor in contents.tensors.items()
    }
    if shapes != found:
        wrong = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        raise ArtifactError(f"{source} holds other tensors than its recipe asks for, such as {wrong[0]!r}")
    model = spec.build()
    assert set(parameter_roles(model)) == set(found)
    model.load_state_dict(dequantize_model(contents.tensors))
    model.to(device)
    model.compute_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return Loaded(model, tokenizer, contents.recipe, contents.training, context)


def _context(training: Any) -> int:
    """Tokens of the longest training rows. What else a recipe says of training has no part in evaluation."""
    length = training.get("length") if isinstance(training, dict) else None
    if type(length) is not int or length < 1:
        raise RecipeError(f"training.length is {length!r} where a number of tokens belongs")
    longer = training.get("longer_rows")
    times = 1 if longer is None else longer.get("times") if isinstance(longer, dict) else None
    if type(times) is not int or times < 1:
        raise RecipeError(f"training.longer_rows is {longer!r} where a number of rows belongs")
    return length * times
