"""What training will run is compiled for made-up tokens while text is read, and changes nothing else."""

import functools
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bytegolf import runner
from bytegolf.model.attention import Attention
from bytegolf.model.lanes import Lanes
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.running.progress import Display
from bytegolf.running.rehearsal import expected_vocabulary, stand_in_text
from bytegolf.text.spec import Text
from bytegolf.tokens.batches import PackedBatches
from bytegolf.tokens.spec import Bytes, SentencePiece, TokenizerFile, Tokens
from bytegolf.training.budget import Budget
from bytegolf.training.ranks import Ranks
from bytegolf.training.spec import Training

LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(32))
RECIPE = Recipe(
    name="rehearsed",
    tokens=Bytes(),
    model=Model(width=16, layers=(LAYER,) * 4, skips="gated", loop=Loop(1, 1, 2, start=0.5), lanes=Lanes(3)),
    training=Training(
        Budget(steps=3), rows=4, length=32, forward_rows=2, precision="float32", compile="on", validate_at=()
    ),
)


def losses(recipe: Recipe, folder: Path) -> list[float]:
    """Of training from a text of its own; what is compiled on the way is compiled by torch.compile."""
    text = folder / "text"
    text.mkdir(parents=True)
    for number in range(8):
        (text / f"{number}.txt").write_text("The river went over the stone. "[number:] * 9)
    run = folder / "run"
    run.mkdir()
    recipe = replace(recipe, text=Text(sources=(str(text),)))
    runner.train(recipe, run, resume=False, ranks=Ranks(), display=Display(None))
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [event["loss"] for event in lines if event["event"] == "train"]


# The compiler's own: it looks at the gradient of all that it is given, and makes objects of torch's classes.
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_left_to_compile_once_text_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []
    rehearsed: list[int] = []
    networks: list[weakref.ref[LanguageModel]] = []
    rehearse, build = runner.rehearse, runner.build_trainer

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    def built(*arguments: Any) -> Any:
        trainer, seen = build(*arguments)
        networks.append(weakref.ref(trainer.model))
        return trainer, seen

    def noted(recipe: Recipe, device: torch.device) -> None:
        rehearse(recipe, device)
        rehearsed.append(len(compiled))
        # Nothing compiled keeps the network, whose memory the one that trains will need.
        assert [network() for network in networks] == [None]

    torch.compiler.reset()
    # In place of the compiler itself, which would take a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    monkeypatch.setattr(runner, "rehearse", noted)
    monkeypatch.setattr(runner, "build_trainer", built)
    found = losses(RECIPE, tmp_path)
    assert rehearsed == [len(compiled)]
    assert compiled
    monkeypatch.undo()
    # Without compilation there is no rehearsal on a CPU, and the same comes out.
    monkeypatch.setattr(runner, "rehearse", noted)
    plain = replace(RECIPE, training=replace(RECIPE.training, compile="off"))
    assert losses(plain, tmp_path / "plain") == pytest.approx(found, rel=1e-5)
    assert len(rehearsed) == 1


def test_tokens_that_are_there_already_need_no_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsed: list[str] = []
    monkeypatch.setattr(runner, "rehearse", lambda recipe, device: rehearsed.append(recipe.name))
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    recipe = replace(RECIPE, prepared=str(tmp_path / "tokens"))
    first = losses(recipe, tmp_path / "first")
    assert rehearsed == ["rehearsed"]
    (tmp_path / "first" / "run" / "metrics.jsonl").unlink()
    text = Text(sources=(str(tmp_path / "first" / "text"),))
    runner.train(
        replace(recipe, text=text),
        tmp_path / "first" / "run",
        resume=False,
        ranks=Ranks(),
        display=Display(None),
    )
    assert rehearsed == ["rehearsed"]
    assert len(first) == 3


@pytest.mark.parametrize("vocabulary", [0, 300])
@pytest.mark.parametrize("tokens", [Bytes(), SentencePiece(300), TokenizerFile("bytes")])
def test_the_stand_in_has_the_size_of_the_tokenizer(tokens: Tokens, vocabulary: int) -> None:
    recipe = replace(RECIPE, tokens=tokens, model=replace(RECIPE.model, vocabulary=vocabulary))
    expected = 300 if isinstance(tokens, SentencePiece) else 257
    assert expected_vocabulary(recipe) == expected
    text = stand_in_text(recipe)
    batch = PackedBatches(text.training, text.tokenizer, rows=4, length=32, seed=0).batch(0)
    assert int(batch.ids_BT.max()) < expected
    assert batch.bytes == int((batch.targets_BT != text.tokenizer.bos).sum())
