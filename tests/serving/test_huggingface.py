"""An exported folder as its users meet it: alone, in batches, saved again, on the command line."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bytegolf.artifact.container import Contents, write_artifact
from bytegolf.cli import main
from bytegolf.errors import ArtifactError
from bytegolf.kernels.attention import flash4
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.roles import parameter_roles
from bytegolf.model.smear import SmearGate
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.serving.artifact import Artifact
from bytegolf.serving.huggingface import check
from bytegolf.serving.huggingface.check import check_folder
from bytegolf.serving.huggingface.flat import flat_modules
from bytegolf.serving.huggingface.folder import write_folder
from bytegolf.text.documents import Document
from bytegolf.tokens.tokenizer import ByteTokenizer, Tokenizer, train_sentencepiece
from bytegolf.tree import to_json

TEXTS = ("a rose is a rose", "", "Tür\x00\x07 ▁ \ue001 \n\t  two", "日本語 🌹")


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def toy(tokenizer: Tokenizer) -> Artifact:
    torch.manual_seed(0)
    block = Block(Attention(2, 1), SquaredMlp(32))
    spec = Model(width=16, layers=(block,) * 2, vocabulary=tokenizer.vocabulary, smear=SmearGate())
    model = spec.build()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return Artifact(
        model, tokenizer, {"name": "toy", "model": to_json(spec)}, {}, context=32, digest=bytes(32)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / "toy"
    write_folder(toy(ByteTokenizer()), path, "float32")
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def test_padding_changes_nothing(loaded: Any) -> None:
    begin = loaded.config.bos_token_id
    short, long = [begin, 97, 98, 99], [begin, *range(100, 109)]
    with torch.no_grad():
        alone = loaded(torch.tensor([short])).logits[0]
        pad = [begin] * (len(long) - len(short))
        for row, mask, part in (
            (pad + short, [0] * len(pad) + [1] * 4, slice(-4, None)),
            (short + pad, [1] * 4 + [0] * len(pad), slice(0, 4)),
        ):
            masks = torch.tensor([mask, [1] * len(long)])
            batch = loaded(torch.tensor([row, long]), attention_mask=masks).logits[0, part]
            torch.testing.assert_close(batch, alone, rtol=0, atol=1e-5)
    settings = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": begin, "eos_token_id": None}
    masks = torch.tensor([[0] * len(pad) + [1] * 4, [1] * len(long)])
    together = loaded.generate(torch.tensor([pad + short, long]), attention_mask=masks, **settings)
    apart = loaded.generate(torch.tensor([short]), attention_mask=torch.ones(1, 4), **settings)
    assert together[0, -6:].tolist() == apart[0, -6:].tolist()


def test_beams_find_the_same_with_and_without_memory(loaded: Any) -> None:
    ids = torch.tensor([[loaded.config.bos_token_id, 97, 98, 99], [loaded.config.bos_token_id, 99, 98, 97]])
    settings = {
        "num_beams": 3,
        "do_sample": False,
        "max_new_tokens": 7,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    assert torch.equal(loaded.generate(ids, **settings), loaded.generate(ids, use_cache=False, **settings))


def test_losses_are_the_mean_over_what_follows(loaded: Any) -> None:
    ids = torch.tensor([[loaded.config.bos_token_id, 97, 98, 99, 100]])
    labels = ids.clone()
    labels[0, 3] = -100
    with torch.no_grad():
        out = loaded(ids, labels=labels)
    logs = torch.log_softmax(out.logits[0, :-1], -1)
    nats = [-float(logs[place, ids[0, place + 1]]) for place in (0, 1, 3)]
    assert float(out.loss) == pytest.approx(sum(nats) / 3)


def test_embeddings_are_refused(loaded: Any) -> None:
    with pytest.raises(ValueError, match="inputs_embeds is not supported"):
        loaded(torch.tensor([[1]]), inputs_embeds=torch.zeros(1, 1, 16))


def test_it_is_saved_and_loaded_again(loaded: Any, tmp_path: Path) -> None:
    loaded.save_pretrained(tmp_path / "again")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    ids = torch.tensor([[loaded.config.bos_token_id, 97, 98]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, loaded(ids).logits)


def test_constants_survive_being_rounded_and_moved(folder: Path, loaded: Any) -> None:
    ids = torch.tensor([[loaded.config.bos_token_id, 97, 98, 99, 100, 101]])
    rounded = transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32
    ).bfloat16()
    there = transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.bfloat16
    )
    with torch.no_grad():
        assert torch.equal(rounded(ids).logits, there(ids).logits)
        angles = [value for name, value in rounded.named_buffers() if name.endswith("frequencies")]
    assert angles
    assert {value.dtype for value in angles} == {torch.float32}


def sentence_pieces() -> Tokenizer:
    text = " ".join(f"{number * number} is the square of {number}." for number in range(300))
    return train_sentencepiece([Document(text, "text")], vocabulary=275)


@pytest.mark.parametrize("made", [ByteTokenizer, sentence_pieces], ids=["bytes", "pieces"])
def test_any_text_comes_back(made: Any, tmp_path: Path) -> None:
    own = made()
    write_folder(toy(own), tmp_path / "toy", "bfloat16")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "toy", trust_remote_code=True)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == [own.bos, *own.encode(text)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert tokenizer.encode(text, add_special_tokens=False) == own.encode(text).tolist()
    assert (tokenizer.vocab_size, len(tokenizer)) == (own.vocabulary, own.vocabulary)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == own.bos
    assert sorted(tokenizer.get_vocab().values()) == list(range(own.vocabulary))
    tokenizer.save_pretrained(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert again(TEXTS[2])["input_ids"] == tokenizer(TEXTS[2])["input_ids"]


def test_a_folder_needs_nothing_of_this_package(folder: Path) -> None:
    """In a process that cannot import it, nor triton."""
    program = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("bytegolf", "triton"):
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Missing())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r}, trust_remote_code=True)
out = model.generate(**tokenizer("a rose", return_tensors="pt"), max_new_tokens=3, do_sample=False)
assert not any(name.startswith("bytegolf") for name in sys.modules)
print(out.tolist())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[[")


def test_the_code_is_the_source(folder: Path) -> None:
    own = Path(check.__file__).parents[2] / "model" / "attention.py"
    exported = (folder / "model_attention.py").read_text()
    lines = set(exported.splitlines())
    kept = [line for line in own.read_text().splitlines() if "bytegolf" not in line]
    assert sum(line in lines for line in kept) > 0.95 * len(kept)
    for path in folder.glob("*.py"):
        text = path.read_text()
        compile(text, path.name, "exec")
        assert "from bytegolf" not in text
        assert "import bytegolf" not in text


def test_modules_are_named_once() -> None:
    files = flat_modules({"bytegolf.model.spec": "network"}, "# made\n")
    assert files["network.py"].startswith("# made\n")
    assert "model_spec.py" not in files
    # Packages that are imported whole, and those that only hold others.
    assert "kernels_attention.py" in files
    assert "kernels.py" not in files


def test_a_full_folder_is_left_alone(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="is not empty; give another with -o FOLDER"):
        write_folder(toy(ByteTokenizer()), folder, "float32")


def test_a_wrong_export_is_noticed(folder: Path) -> None:
    artifact = toy(ByteTokenizer())
    assert check_folder(artifact, folder, "float32") == 0.0
    other = toy(ByteTokenizer())
    with torch.no_grad():
        next(other.model.parameters()).add_(0.5)
    with pytest.raises(ArtifactError, match="predicts otherwise than the artifact, by up to"):
        check_folder(replace(other), folder, "float32")


def test_the_card_and_the_configuration(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert 'from_pretrained("toy", trust_remote_code=True)' in card
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BytegolfForCausalLM"]
    read = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (read.hidden_size, read.num_hidden_layers, read.max_position_embeddings) == (16, 2, 32)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = toy(ByteTokenizer())
    recipe = {**artifact.recipe, "training": {"length": 32}}
    tensors = {name: weight.detach() for name, weight in artifact.model.named_parameters()}
    roles = {name: str(role) for name, role in parameter_roles(artifact.model).items()}
    contents = Contents(recipe, ByteTokenizer().to_bytes(), tensors, roles, {})
    write_artifact(tmp_path / "run" / "artifact.bg", contents)
    assert main(["export", "huggingface", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "run" / "huggingface") in shown.replace("\n", "")
    assert "its logits are the artifact's to the bit" in shown.replace("\n", " ")
    assert "moved ln p by at most" in shown.replace("\n", " ")
    assert main(["export", "huggingface", str(tmp_path / "run" / "artifact.bg")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_missing_file_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "huggingface", "missing.bg"]) == 2
    assert "missing.bg" in capsys.readouterr().err


def test_operators_of_an_export_are_its_own(loaded: Any) -> None:
    """A process that uses both, as the export's own check does, must not mix up their operators."""
    theirs = sys.modules[type(loaded).__module__.rpartition(".")[0] + ".kernels_attention_flash4"]
    assert theirs._SPACE != flash4._SPACE
    assert hasattr(torch.ops, theirs._SPACE)
    assert hasattr(getattr(torch.ops, flash4._SPACE), "flash4")
    assert (
        getattr(torch.ops, theirs._SPACE).flash4.default
        is not getattr(torch.ops, flash4._SPACE).flash4.default
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@torch.no_grad()
def test_an_export_runs_on_a_gpu(tmp_path: Path) -> None:
    artifact = toy(ByteTokenizer())
    write_folder(artifact, tmp_path / "toy", "bfloat16")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "toy", trust_remote_code=True, dtype=torch.bfloat16
    ).cuda()
    model = artifact.model.cuda()
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    model.compute_dtype = torch.bfloat16
    ids = torch.randint(97, 123, (2, 20), generator=torch.Generator().manual_seed(0))
    ids[:, [0, 7]] = artifact.tokenizer.bos
    expected = model.logits(
        model.hidden_at(ids.cuda(), ids == artifact.tokenizer.bos, torch.arange(40, device="cuda"))
    )
    assert torch.equal(loaded(ids.cuda()).logits.flatten(0, 1), expected)
    settings = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    told = loaded.generate(ids.cuda(), **settings)
    assert told.shape == (2, 28)
