"""An artifact as a folder that the Hugging Face library loads."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from bytegolf import __version__
from bytegolf.errors import ArtifactError
from bytegolf.files import atomic_write
from bytegolf.model.spec import Model
from bytegolf.serving.artifact import Artifact
from bytegolf.serving.huggingface.flat import flat_modules
from bytegolf.tree import from_json, to_json

Precision = Literal["bfloat16", "float32"]

_HERE = __name__.rpartition(".")[0]
_MODEL = {f"{_HERE}.configuration": "configuration_bytegolf", f"{_HERE}.modeling": "modeling_bytegolf"}
_TOKENIZER = {f"{_HERE}.tokenization": "tokenization_bytegolf"}
_HEADER = (
    f"# From bytegolf {__version__}, Apache License 2.0. Its own module, as it is but for its imports: the\n"
    "# Hugging Face library wants all in one folder.\n"
)


def write_folder(artifact: Artifact, folder: Path, precision: Precision) -> dict[str, int]:
    """Writes weights, configuration, tokenizer, code and a card; sizes in bytes by file name.

    Weights are rounded to `precision`; in float32 they are exactly those of the artifact. Raises
    `ArtifactError` if the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty; give another with -o FOLDER, or delete it")
    files = {
        "model.safetensors": _weights(artifact, getattr(torch, precision)),
        "config.json": _json(_config(artifact, precision)),
        "generation_config.json": _json(_generation(artifact)),
        "tokenizer.bin": artifact.tokenizer.to_bytes(),
        "tokenizer_config.json": _json(_tokenizer(artifact)),
        "README.md": _card(artifact, folder.name, precision).encode(),
    }
    for name, text in (flat_modules(_MODEL, _HEADER) | flat_modules(_TOKENIZER, _HEADER)).items():
        files[name] = text.encode()
    for name, data in files.items():
        atomic_write(folder / name, data)
    return {name: len(data) for name, data in files.items()}


def _weights(artifact: Artifact, dtype: torch.dtype) -> bytes:
    tensors = {
        f"network.{name}": value.detach().to("cpu", dtype).contiguous()
        for name, value in artifact.model.named_parameters()
    }
    return save(tensors, metadata={"format": "pt"})


def _config(artifact: Artifact, precision: Precision) -> dict[str, Any]:
    begin = artifact.tokenizer.bos
    return {
        "architectures": ["BytegolfForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_bytegolf.BytegolfConfig",
            "AutoModelForCausalLM": "modeling_bytegolf.BytegolfForCausalLM",
        },
        "model_type": "bytegolf",
        "bos_token_id": begin,
        "eos_token_id": begin,
        "context": artifact.context,
        "dtype": precision,
        "spec": to_json(from_json(Model, artifact.recipe["model"], "model")),
    }


def _generation(artifact: Artifact) -> dict[str, Any]:
    begin = artifact.tokenizer.bos
    return {"bos_token_id": begin, "eos_token_id": begin, "pad_token_id": begin}


def _tokenizer(artifact: Artifact) -> dict[str, Any]:
    return {
        "auto_map": {"AutoTokenizer": ["tokenization_bytegolf.BytegolfTokenizer", None]},
        "tokenizer_class": "BytegolfTokenizer",
        "model_max_length": artifact.context,
        "clean_up_tokenization_spaces": False,
    }


def _card(artifact: Artifact, name: str, precision: Precision) -> str:
    recipe = artifact.recipe
    count = sum(value.numel() for value in artifact.model.parameters())
    tokens = artifact.tokenizer.vocabulary
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [bytegolf]
---

# {recipe.get("name", name)}

A language model of {count:,} weights over {tokens:,} tokens, trained and compressed by bytegolf
{__version__}. The weights here are those of its artifact, unpacked and in {precision}; its SHA-256 is
{artifact.digest.hex()}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
ids = tokenizer("The", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=40, do_sample=True)[0], skip_special_tokens=True))
```

The code beside this file is bytegolf's own, module by module; it needs torch, transformers, sentencepiece and
brotli. In training the network looked back on {artifact.context:,} tokens; longer texts are read too, and
predicted worse.

The recipe:

```json
{json.dumps(recipe, indent=1)}
```
"""


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()
