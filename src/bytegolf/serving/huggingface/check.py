"""Whether what the Hugging Face library loads from a folder is the artifact's model."""

import copy
from pathlib import Path
from typing import Any

import torch

from bytegolf.errors import ArtifactError
from bytegolf.model.spec import LanguageModel
from bytegolf.model.stream import Stream
from bytegolf.serving.artifact import Artifact
from bytegolf.serving.huggingface.folder import Precision


def check_folder(artifact: Artifact, folder: Path, precision: Precision) -> float:
    """Loads the folder as a user would, and compares logits of some text, bit for bit.

    Returns the most by which rounding the weights to `precision` has moved a log-probability. Raises
    `ArtifactError` if logits differ, `ImportError` without the library.
    """
    import transformers

    library: Any = transformers
    library.utils.logging.disable_progress_bar()
    loaded = library.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=getattr(torch, precision)
    )
    ids_BT, starts_BT = _some_ids(artifact)
    with torch.no_grad():
        own = copy.deepcopy(artifact.model).cpu()
        exact = own.log_probabilities(ids_BT, starts_BT)
        _round(own, precision)
        rounded = own.logits(own.hidden(ids_BT, Stream.of(starts_BT)))
        found = loaded(ids_BT).logits
    if not torch.equal(found, rounded):
        raise ArtifactError(
            f"{folder} predicts otherwise than the artifact, by up to {float((found - rounded).abs().max())} "
            "in a logit; this is a mistake of the export"
        )
    moved = torch.log_softmax(rounded.float(), dim=-1) - exact
    return float(moved.abs().max())


def _some_ids(artifact: Artifact) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of two documents each."""
    generator = torch.Generator().manual_seed(0)
    length = min(64, artifact.context)
    ids_BT = torch.randint(artifact.tokenizer.vocabulary, (2, length), generator=generator)
    begin = artifact.tokenizer.bos
    ids_BT[:, [0, length // 2]] = begin
    return ids_BT, ids_BT == begin


def _round(model: LanguageModel, precision: Precision) -> None:
    dtype = getattr(torch, precision)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.compute_dtype = dtype
