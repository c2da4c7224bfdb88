"""Whatever the network is made of, the Hugging Face library loads it, and finds the same logits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from specs import SPECS, build

from bytegolf.model.decoding import Reader
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.serving.artifact import Artifact
from bytegolf.serving.huggingface.folder import write_folder
from bytegolf.tokens.tokenizer import ByteTokenizer
from bytegolf.tree import to_json

TOKENIZER = ByteTokenizer()
EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def exported(spec: Model, folder: Path, precision: Any = "float32") -> tuple[LanguageModel, Any]:
    """A network with weights far from their start, and what is loaded of its export, in evaluation."""
    spec = replace(spec, vocabulary=TOKENIZER.vocabulary)
    model = build(spec, torch.float32).eval()
    model.fit_rows(None)
    recipe = {"name": "toy", "model": to_json(spec)}
    artifact = Artifact(model, TOKENIZER, recipe, {}, context=32, digest=bytes(32))
    # One name for all, so that the library imports the code once.
    write_folder(artifact, folder / "exported", precision)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "exported", trust_remote_code=True, dtype=getattr(torch, precision)
    )
    return model, loaded


def rows_of_documents() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids_BT = torch.randint(97, 123, (2, 23), generator=generator)
    ids_BT[0, [0, 9, 10]] = TOKENIZER.bos
    ids_BT[1, [0, 17]] = TOKENIZER.bos
    return ids_BT, ids_BT == TOKENIZER.bos


@EVERY_SPEC
@torch.no_grad()
def test_logits_and_what_is_generated_are_the_same(spec: Model, tmp_path: Path) -> None:
    model, loaded = exported(spec, tmp_path)
    ids_BT, starts_BT = rows_of_documents()
    found = loaded(ids_BT).logits
    expected = model.logits(model.hidden_at(ids_BT, starts_BT, torch.arange(ids_BT.numel())))
    assert torch.equal(found.flatten(0, 1), expected)

    # Greedily, through its memory, without, and as this project decodes.
    prompt_BT = ids_BT[:, :8]
    settings = {"do_sample": False, "max_new_tokens": 10, "pad_token_id": 0, "eos_token_id": None}
    told = loaded.generate(prompt_BT, **settings)
    assert torch.equal(told, loaded.generate(prompt_BT, use_cache=False, **settings))
    reader = Reader(model, 2, 18, fixed=False)
    logs_BV = reader.begin(prompt_BT, starts_BT[:, :8])
    for place in range(8, 18):
        likeliest_B = logs_BV.argmax(1)
        assert torch.equal(told[:, place], likeliest_B)
        logs_BV = reader.step(likeliest_B, likeliest_B == TOKENIZER.bos)


@pytest.mark.parametrize("spec", list(SPECS.values())[:3], ids=list(SPECS)[:3])
@torch.no_grad()
def test_rounded_weights_compute_in_their_precision(spec: Model, tmp_path: Path) -> None:
    model, loaded = exported(spec, tmp_path, "bfloat16")
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    model.compute_dtype = torch.bfloat16
    ids_BT, starts_BT = rows_of_documents()
    expected = model.logits(model.hidden_at(ids_BT, starts_BT, torch.arange(ids_BT.numel())))
    assert torch.equal(loaded(ids_BT).logits.flatten(0, 1), expected)
    # Asked for in float32, it computes with the same weights in float32.
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "exported", trust_remote_code=True, dtype=torch.float32
    )
    for weight in model.parameters():
        weight.data = weight.data.float()
    model.compute_dtype = torch.float32
    expected = model.logits(model.hidden_at(ids_BT, starts_BT, torch.arange(ids_BT.numel())))
    assert torch.equal(again(ids_BT).logits.flatten(0, 1), expected)
