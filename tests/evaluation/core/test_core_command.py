"""`bytegolf core` on a tiny run and on a Hugging Face model, end to end."""

import json
from pathlib import Path

import pytest
from toy_core import write_bundle

from bytegolf.cli import main
from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.evaluation.core.tasks import TASKS
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.runner import run
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run; a bundle lies beside it."""
    folder = tmp_path_factory.mktemp("core")
    lines = [f"{i * i % 97} is the square of {i} modulo ninety-seven.\n" for i in range(200)]
    (folder / "text.txt").write_text("".join(lines))
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32))
    recipe = Recipe(
        name="tiny",
        text=Text(sources=(str(folder / "text.txt"),), cut_bytes=1000, held_out=0.2),
        tokens=Bytes(),
        model=Model(width=16, layers=(layer,)),
        training=Training(Budget(steps=2), rows=4, length=32, precision="float32", checkpoint_seconds=1e9),
        compression=Compression(FixedBits(Grid(6))),
        evaluation=Evaluation(plans=(Chunked(32),), sample_tokens=0, coloured_bytes=0),
    )
    run(recipe, folder / "run", device="cpu")
    write_bundle(folder / "bundle")
    return folder


def test_a_run_is_asked_and_asked_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["core", str(finished / "run"), "--bundle", str(finished / "bundle"), "--max-per-task", "3"]
    assert main(line) == 0
    shown = capsys.readouterr().out
    folder = finished / "run" / "core-3"
    result = json.loads((folder / "core.json").read_text())
    assert f"{result['core']:.4f}" in shown
    assert "CORE of published models: gpt2 0.1139" in shown
    assert "a model that was trained on Wikipedia" in shown
    assert str(folder / "core.html") in shown.replace("\n", "")
    assert result["settings"]["model"] == "tiny"
    assert result["settings"]["context"] == 32
    assert all(len(line) <= 80 for line in shown.splitlines() if "report" not in line)
    kept = (folder / "tasks" / "copa.jsonl").read_bytes()
    assert main(line) == 0
    assert capsys.readouterr().out == shown
    assert (folder / "tasks" / "copa.jsonl").read_bytes() == kept
    # The same model by its file.
    line[1] = str(finished / "run" / "artifact.bg")
    assert main([*line, "--folder", str(finished / "elsewhere")]) == 0
    again = json.loads((finished / "elsewhere" / "core.json").read_text())
    assert again == result


def test_the_page_shows_every_task(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["core", str(finished / "run"), "--bundle", str(finished / "bundle"), "--tasks", "copa", "squad"]
    assert main([*words, "--folder", str(finished / "two")]) == 0
    assert "CORE  " not in capsys.readouterr().out
    page = (finished / "two" / "core.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "2 of 22 tasks, all items: no CORE" in page
    for text in ("copa", "squad", "multiple choice", "gpt2", "trained on Wikipedia", 'role="img"'):
        assert text in page
    assert "<script" not in page
    assert "hellaswag" not in page


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--max-per-task", "0"], "--max-per-task is 0; give a positive number"),
        (["--context", "1"], "--context is 1; give at least 2"),
        (["--tasks", "coap"], "task 'coap' is unknown; there are hellaswag_zeroshot"),
        (["--bundle", "nowhere"], "there is no bundle nowhere"),
    ],
)
def test_mistakes_are_told_in_a_line(
    words: list[str], complaint: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["core", str(finished / "run"), "--bundle", str(finished / "bundle"), *words]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1


def test_a_file_that_is_not_there(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["core", "missing.bg", "--bundle", str(finished / "bundle")]) == 2
    assert "there is no artifact missing.bg" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers with random weights and a tokenizer of bytes, as the library saves them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({piece: number for number, piece in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=48,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=256,
        eos_token_id=256,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_hugging_face_model_is_a_reference(
    tiny_gpt2: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    (finished / "run" / "tasks").mkdir()
    assert main(["core", str(tiny_gpt2), "--bundle", "bundle", "--max-per-task", "2", "--device", "cpu"]) == 0
    result = json.loads((finished / "runs" / "tiny-gpt2" / "core-2" / "core.json").read_text())
    assert result["settings"]["context"] == 48
    assert len(result["tasks"]) == len(TASKS)
    capsys.readouterr()
    assert main(["core", "run/tasks", "--bundle", "bundle"]) == 2
    assert "neither a .bg file nor a model that transformers loads" in capsys.readouterr().err


def test_a_hugging_face_model_predicts_as_its_library_does(tiny_gpt2: Path) -> None:
    import torch
    from transformers import GPT2LMHeadModel

    from bytegolf.evaluation.core.huggingface import HuggingFaceReader

    reader = HuggingFaceReader(str(tiny_gpt2), torch.device("cpu"))
    rows = [reader.encode(text) for text in ("a rose is a rose", "is")]
    assert rows[1][0] == 256
    assert len(rows[1]) == 3
    padded = torch.tensor([rows[0], rows[1] + [0] * (len(rows[0]) - 3)])
    places = torch.cat([torch.arange(len(rows[0]) - 1), len(rows[0]) + torch.arange(2)])
    nats, likeliest = reader.predict(padded, torch.tensor([len(row) for row in rows]), places)
    model = GPT2LMHeadModel.from_pretrained(tiny_gpt2).eval()
    start = 0
    for row in rows:
        with torch.no_grad():
            # Its own loss is the mean over a row.
            out = model(torch.tensor([row]), labels=torch.tensor([row]))
        own = slice(start, start + len(row) - 1)
        torch.testing.assert_close(nats[own].mean(), out.loss)
        assert torch.equal(likeliest[own], out.logits[0, :-1].argmax(1))
        start += len(row) - 1
