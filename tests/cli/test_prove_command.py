"""`bytegolf prove` on a tiny run: verdicts, exit codes, and a certificate that knows what it is about."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bytegolf.artifact.container import read_artifact, write_artifact
from bytegolf.cli import main
from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.evaluation.adaptation import DocumentLora, MatchModel, ScoreFirstSgd
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.runner import run
from bytegolf.running.certificate import check_certificate
from bytegolf.text.documents import Document
from bytegolf.text.spec import Text
from bytegolf.tokens.shards import open_prepared
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training
from bytegolf.tree import to_json

CONDITIONS = [
    "causality", "normalization", "each byte once", "order", "split", "size", "budget", "reproducibility",
]  # fmt: skip
SENTENCES = "{number} bottles of {colour} stand on shelf {place} behind the {colour} door number {number}.\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run."""
    folder = tmp_path_factory.mktemp("prove")
    colours = ("red", "green", "blue", "grey", "white", "black", "brown")
    lines = [
        SENTENCES.format(number=i * i % 997, colour=colours[i * 5 % 7], place=i * 31 % 89) for i in range(900)
    ]
    (folder / "text.txt").write_text("".join(lines))
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32))
    recipe = Recipe(
        name="tiny",
        text=Text(sources=(str(folder / "text.txt"),), cut_bytes=4000, held_out=0.2),
        tokens=Bytes(),
        model=Model(width=16, layers=(layer,) * 2),
        training=Training(Budget(steps=4), rows=4, length=32, precision="float32", checkpoint_seconds=1e9),
        compression=Compression(FixedBits(Grid(6)), budget_bytes=20_000),
        evaluation=Evaluation(
            plans=(Chunked(32),),
            adaptation=ScoreFirstSgd(chunk=4000, length=32, rows=8, epochs=1),
            sample_tokens=5,
            coloured_bytes=200,
        ),
    )
    run(recipe, folder / "run", device="cpu", console=Console(quiet=True))
    return folder / "run"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed; without its report, which each certificate would be drawn into."""
    return Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("report.html")))


def prove(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the certificate."""
    code = main(["prove", str(folder / "artifact.bg"), "--device", "cpu", "--positions", "16", *words])
    return code, json.loads((folder / "certificate.json").read_bytes())


def outcomes(certificate: dict[str, Any]) -> dict[str, str]:
    return {row["condition"]: row["outcome"] for row in certificate["verdicts"]}


def sentence(certificate: dict[str, Any], condition: str) -> str:
    return next(row["sentence"] for row in certificate["verdicts"] if row["condition"] == condition)


def test_a_finished_run_is_proved_by_its_path_alone(
    finished: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(finished / "report.html", copied / "report.html")
    code, certificate = prove(copied)
    shown = capsys.readouterr().out
    assert (code, certificate["outcome"]) == (0, "pass"), certificate["verdicts"]
    assert outcomes(certificate) == dict.fromkeys(CONDITIONS, "pass")
    assert "all 8 conditions hold" in shown
    used = "4 of 4 steps by the artifact's record and result.json and metrics.jsonl."
    assert sentence(certificate, "budget") == used
    assert [name for name in CONDITIONS if name not in shown] == []
    result = json.loads((copied / "result.json").read_bytes())
    claimed = next(row for row in result["scores"] if row["model"] == "artifact")
    assert certificate["score"]["bits_per_byte"] == pytest.approx(claimed["bits_per_byte"], abs=1e-9)
    assert certificate["score"]["bytes"] == claimed["bytes"]
    assert certificate["bound_to"]["text_sha256"] == result["data"]["validation_sha256"]
    artifact = (copied / "artifact.bg").read_bytes()
    assert certificate["bound_to"]["artifact_sha256"] == hashlib.sha256(artifact).hexdigest()
    assert certificate["asked"]["plan"] == {"type": "Chunked", "length": 32}
    assert certificate["machine"]["date"] == certificate["date"]
    assert 'id="proof"' in (copied / "report.html").read_text()


def test_a_broken_condition_is_named_and_is_the_exit_code(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, certificate = prove(copied, "--limit", "500", "--claim", "1.5")
    assert (code, certificate["outcome"]) == (1, "fail")
    found = outcomes(certificate)
    assert [name for name in CONDITIONS if found[name] == "fail"] == ["size", "reproducibility"]
    assert "over 500" in sentence(certificate, "size")
    assert "1.500000 claimed" in sentence(certificate, "reproducibility")
    assert "FAILED: size, reproducibility" in capsys.readouterr().out


def test_training_text_is_not_a_held_out_one(copied: Path) -> None:
    prepared = open_prepared(copied / "data")
    start, stop = (int(offset) for offset in prepared.training.starts[:2])
    (copied / "leak.txt").write_bytes(prepared.tokenizer.decode(prepared.training.read(start, stop)))
    code, certificate = prove(copied, "--text", str(copied / "leak.txt"))
    assert code == 1
    assert "were trained on" in sentence(certificate, "split")
    assert outcomes(certificate)["reproducibility"] == "not checked"
    assert "another text" in sentence(certificate, "reproducibility")


def test_what_is_not_checked_is_said_and_fails_if_strict(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(finished / "artifact.bg", tmp_path / "artifact.bg")
    (tmp_path / "new.txt").write_text("A text that nobody has seen before, and short.\n" * 20)
    words = ("--text", str(tmp_path / "new.txt"))
    code, certificate = prove(tmp_path, *words)
    assert (code, certificate["outcome"]) == (0, "not checked")
    unchecked = [name for name, outcome in outcomes(certificate).items() if outcome != "pass"]
    assert unchecked == ["split", "reproducibility"]
    assert "NOT CHECKED: split, reproducibility" in capsys.readouterr().out
    assert prove(tmp_path, *words, "--strict")[0] == 1


def test_a_training_record_beyond_the_budget_fails(copied: Path) -> None:
    contents = read_artifact(copied / "artifact.bg")
    contents.training["steps"] = 5
    write_artifact(copied / "artifact.bg", contents)
    code, certificate = prove(copied)
    assert code == 1
    assert "5 steps by the artifact's record, 4 are allowed" in sentence(certificate, "budget")
    # What lies beside another artifact claims nothing about this one.
    assert "no result.json of this artifact" in sentence(certificate, "reproducibility")


def test_a_model_that_learns_from_the_text_is_proved_too(copied: Path) -> None:
    code, certificate = prove(copied, "--adapt")
    assert code == 0, certificate["verdicts"]
    assert certificate["score"]["plan"] == "chunked 32, adaptive"
    assert "only after their scores" in sentence(certificate, "order")


def test_adapters_on_documents_are_scored_and_proved_but_not_packed(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "artifact.bg"
    contents = read_artifact(path)
    spec = DocumentLora(chunk=16, length=32)
    contents.recipe["evaluation"]["adaptation"] = to_json(spec)
    write_artifact(path, contents)
    text = copied / "held_out.txt"
    text.write_text("Some words that come again. " * 9)
    words = ["evaluate", str(path), "--text", str(text), "--device", "cpu", "--json"]
    assert main([*words, "--adapt", "--plans", "Chunked", "PerDocument"]) == 0
    rows = json.loads(capsys.readouterr().out)
    # It has windows of its own, so there is one score for both plans.
    assert [row["plan"] for row in rows] == ["per document, chunks of 16 in 32, adaptive"]
    certificate = prove(copied, "--text", str(text), "--adapt", "--round-trip")[1]
    assert certificate["score"]["bits_per_byte"] == pytest.approx(rows[0]["bits_per_byte"])
    assert outcomes(certificate)["causality"] == outcomes(certificate)["order"] == "pass"
    assert outcomes(certificate)["round trip"] == "not checked"
    assert "pack without --adapt" in sentence(certificate, "round trip")
    assert main(["pack", str(text), "-m", str(path), "--adapt", "--device", "cpu"]) == 2
    assert "DocumentLora learns in each document" in capsys.readouterr().err


@pytest.mark.parametrize("learner", [None, ScoreFirstSgd(chunk=200, length=32, rows=4, epochs=1)])
def test_a_match_model_is_scored_proved_and_packed(
    copied: Path, learner: ScoreFirstSgd | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = copied / "artifact.bg", copied / "held_out.txt"
    contents = read_artifact(path)
    contents.recipe["evaluation"]["adaptation"] = to_json(MatchModel(learner))
    write_artifact(path, contents)
    text.write_text("Some words that come again. " * 16)
    words = ["evaluate", str(path), "--text", str(text), "--device", "cpu", "--json"]
    scores = []
    for more in ([], ["--adapt"]):
        assert main([*words, *more, "--plans", '{"type": "Chunked", "length": 32}']) == 0
        scores.append(json.loads(capsys.readouterr().out)[0]["bits_per_byte"])
    assert scores[1] < 0.5 * scores[0]
    certificate = prove(copied, "--text", str(text), "--adapt", "--round-trip")[1]
    assert certificate["score"]["bits_per_byte"] == pytest.approx(scores[1])
    passing = {"causality", "normalization", "each byte once", "order", "round trip"}
    assert {
        name: outcome for name, outcome in outcomes(certificate).items() if name in passing
    } == dict.fromkeys(passing, "pass")
    assert ("bit for bit" in sentence(certificate, "order")) == (learner is None)


def test_another_seed_tries_other_places(copied: Path) -> None:
    tried = [prove(copied, "--seed", seed)[1]["verdicts"][0]["numbers"] for seed in ("0", "1", "0")]
    assert tried[0] == tried[2] != tried[1]


def test_a_round_trip_comes_back_in_a_fresh_process(copied: Path) -> None:
    (copied / "short.txt").write_bytes(b"12 bottles of red stand on shelf 3.\r\n" * 8 + bytes([0xC3, 0xA9]))
    code, certificate = prove(copied, "--text", str(copied / "short.txt"), "--round-trip")
    assert code == 0, certificate["verdicts"]
    assert outcomes(certificate)["round trip"] == "pass"
    numbers = certificate["verdicts"][-1]["numbers"]
    assert numbers["claim_bits_per_byte"] == 8 * numbers["packed_bytes"] / numbers["text_bytes"]
    assert numbers["claim_bits_per_byte"] >= numbers["ledger_bits_per_byte"]


def test_a_certificate_knows_what_it_is_about(copied: Path) -> None:
    target = copied / "elsewhere.json"
    words = ["--device", "cpu", "--positions", "2", "--json", str(target)]
    assert main(["prove", str(copied / "artifact.bg"), *words]) == 0
    assert not (copied / "certificate.json").exists()
    artifact = (copied / "artifact.bg").read_bytes()
    recipe = read_artifact(copied / "artifact.bg").recipe
    documents = open_prepared(copied / "data").validation_documents()
    held = check_certificate(target, artifact, recipe, documents)
    assert held == dict.fromkeys(("artifact_sha256", "text_sha256", "recipe_sha256", "source_sha256"), True)
    assert not check_certificate(target, artifact + b"\0", recipe, documents)["artifact_sha256"]
    assert not check_certificate(target, artifact, {**recipe, "name": "other"}, documents)["recipe_sha256"]
    changed = [Document(documents[0].text + " ", documents[0].id), *documents[1:]]
    assert not check_certificate(target, artifact, recipe, changed)["text_sha256"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["prove"], ["ARTIFACT"]),
        (["prove", "absent.bg"], ["absent.bg", "cannot be read"]),
        (["prove", "{run}/recipe.json"], ["recipe.json", "not a bytegolf artifact"]),
        (["prove", "{alone}/artifact.bg"], ["--text"]),
        (["prove", "{run}/artifact.bg", "--data", "absent"], ["--data absent", "no folder"]),
        (["prove", "{run}/artifact.bg", "--positions", "0"], ["--positions is 0"]),
        (["prove", "{run}/artifact.bg", "--plan", "Chunkd"], ["--plan", "'Chunkd'"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_is_one_line_and_exit_code_2(
    finished: Path, tmp_path: Path, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(finished / "artifact.bg", tmp_path / "artifact.bg")
    assert main([word.format(run=finished, alone=tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bytegolf: ")
    assert error.count("\n") == 1
    assert [part for part in parts if part not in error] == [], error
