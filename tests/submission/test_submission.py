"""The folder that is submitted: its files are the run's, its sizes those on disk, its mistakes one line."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bytegolf.artifact.container import read_artifact
from bytegolf.errors import ArtifactError, BytegolfError, CheckpointError, RecipeError
from bytegolf.recipe import Recipe
from bytegolf.recipes.pocket import RECIPE as POCKET
from bytegolf.recipes.swiglu_xsa_adapter import RECIPE as SWIGLU
from bytegolf.recipes.ternary_unet import RECIPE as TERNARY
from bytegolf.submission.folder import LIMIT_BYTES, Labels, Sizes, describe, open_run, write
from bytegolf.submission.recipe_code import recipe_code


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_folder_has_the_challenge_s_form(shipped: Path) -> None:
    names = {"train_gpt.py", "artifact.bg", "submission.json", "README.md", "train.log"}
    assert {path.name for path in shipped.iterdir()} == names


def test_sizes_are_those_of_the_files(shipped: Path) -> None:
    data = read(shipped / "submission.json")
    tokenizer = len(read_artifact(shipped / "artifact.bg").tokenizer)
    code, artifact = ((shipped / name).stat().st_size for name in ("train_gpt.py", "artifact.bg"))
    assert (data["bytes_code"], data["bytes_artifact"], data["bytes_tokenizer"]) == (
        code,
        artifact,
        tokenizer,
    )
    assert data["bytes_model"] == artifact - tokenizer
    assert data["bytes_total"] == code + artifact - tokenizer
    assert data["bytes_limit"] == 16_000_000
    assert data["bytes_code_evaluation"] < code


def test_the_run_itself_counts_the_script_that_ships(finished: Path, shipped: Path) -> None:
    sizes = read(finished / "result.json")["artifact"]
    assert sizes["source_bytes"] == (shipped / "train_gpt.py").stat().st_size
    assert sizes["challenge_bytes"] == read(shipped / "submission.json")["bytes_total"]


def test_the_artifact_and_the_scores_are_the_run_s(finished: Path, shipped: Path) -> None:
    data, result = read(shipped / "submission.json"), read(finished / "result.json")
    assert (shipped / "artifact.bg").read_bytes() == (finished / "artifact.bg").read_bytes()
    assert data["artifact_sha256"] == hashlib.sha256((shipped / "artifact.bg").read_bytes()).hexdigest()
    assert data["scores"] == result["scores"]
    submitted = next(row for row in result["scores"] if row["plan"] == "chunked 32, adaptive")
    assert (data["val_bpb"], data["val_loss"]) == (submitted["bits_per_byte"], submitted["nats_per_token"])
    assert data["seed_results"] == {
        "1": {
            "val_loss": submitted["nats_per_token"],
            "val_bpb": submitted["bits_per_byte"],
            "artifact_bytes": result["artifact"]["bytes"],
            "steps": 4,
            "train_time_s": result["training"]["seconds"],
            "eval_time_s": submitted["seconds"],
        }
    }
    assert (data["author"], data["name"], data["track"]) == ("A. Nonymous", "tiny", "non_record_16mb")
    assert data["source_sha256"] == data["run_source_sha256"]


def test_the_page_says_what_submission_json_says(shipped: Path) -> None:
    page, data = (shipped / "README.md").read_text(encoding="utf-8"), read(shipped / "submission.json")
    assert page.startswith("# tiny\n\nSmall | smaller.\n")
    assert f"**{data['val_bpb']:.4f}**" in page
    for name in ("bytes_total", "bytes_code", "bytes_model", "bytes_tokenizer"):
        assert f"| {data[name]:,} |" in page
    assert "pip install torch numpy sentencepiece brotli constriction" in page
    assert "another state of the program" not in page


def test_the_log_has_every_step_and_score(finished: Path, shipped: Path) -> None:
    log = (shipped / "train.log").read_text(encoding="utf-8")
    events = map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
    for event in events:
        if event["event"] == "train":
            assert f"step:{event['step']}/4 train_loss:{event['loss']:.4f} " in log
    for row in read(finished / "result.json")["scores"]:
        assert f"{row['model']} {row['plan']} val_loss:{row['nats_per_token']:.8f}" in log


def test_seeds_are_averaged_and_each_has_its_log(finished: Path, second: Path, tmp_path: Path) -> None:
    submission = open_run(finished, (second,))
    write(submission, Labels(), tmp_path / "both")
    data = read(tmp_path / "both" / "submission.json")
    bits = [row["val_bpb"] for row in data["seed_results"].values()]
    assert data["seeds"] == [1, 2]
    assert len(set(bits)) == 2
    assert data["val_bpb"] == pytest.approx(sum(bits) / 2, rel=1e-12)
    assert data["val_bpb_std"] == pytest.approx(abs(bits[0] - bits[1]) / 2**0.5)
    assert (tmp_path / "both" / "train_seed1.log").is_file()
    assert "seed:2 " in (tmp_path / "both" / "train_seed2.log").read_text()


def test_the_same_seed_is_no_second_one(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    with pytest.raises(BytegolfError, match="no second seed"):
        open_run(finished, (tmp_path / "copy",))


def test_another_recipe_is_no_seed(finished: Path, second: Path, tmp_path: Path) -> None:
    other = shutil.copytree(second, tmp_path / "other")
    recipe = read(other / "recipe.json")
    recipe["training"]["rows"] = 5
    (other / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(BytegolfError, match=r"differ in training\.rows.*only runs that differ in their seed"):
        open_run(finished, (other,))


def test_what_is_no_finished_run_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no run folder"):
        open_run(tmp_path)
    begun = shutil.copytree(finished, tmp_path / "begun")
    (begun / "result.json").unlink()
    with pytest.raises(BytegolfError, match=r"unfinished.*bytegolf train --resume"):
        open_run(begun)


def test_an_artifact_that_was_not_scored_is_refused(finished: Path, second: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(finished, tmp_path / "mixed")
    shutil.copy(second / "artifact.bg", mixed / "artifact.bg")
    with pytest.raises(ArtifactError, match=r"not the file that result\.json scores"):
        open_run(mixed)
    data = bytearray((finished / "artifact.bg").read_bytes())
    data[len(data) // 2] ^= 1
    (mixed / "artifact.bg").write_bytes(data)
    with pytest.raises(ArtifactError, match="checksum"):
        open_run(mixed)


def test_a_run_that_was_not_scored_as_its_recipe_says_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    result = read(copy / "result.json")
    result["scores"] = [row for row in result["scores"] if "adaptive" not in row["plan"]]
    (copy / "result.json").write_text(json.dumps(result))
    with pytest.raises(BytegolfError, match="no score of its artifact by 'chunked 32, adaptive'"):
        open_run(copy)


def test_an_existing_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(RecipeError, match=r"exists.*--out FOLDER, or delete it"):
        write(open_run(finished), Labels(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_certificate_counts_only_for_its_own_artifact(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    row = {"condition": "causality", "outcome": "pass", "sentence": "No earlier score changed."}
    digest = hashlib.sha256((copy / "artifact.bg").read_bytes()).hexdigest()
    for bound, expected in ((digest, {"causality": "pass"}), ("0" * 64, None)):
        certificate = {"bound_to": {"artifact_sha256": bound}, "verdicts": [row]}
        (copy / "certificate.json").write_text(json.dumps(certificate))
        assert describe(open_run(copy), Labels()).get("compliance") == expected


def test_the_limit_is_on_code_and_weights_without_the_tokenizer() -> None:
    assert LIMIT_BYTES == 16_000_000
    sizes = Sizes(code=100_000, evaluation=60_000, artifact=15_930_000, tokenizer=30_000)
    assert (sizes.total, sizes.over) == (LIMIT_BYTES, 0)
    assert Sizes(code=100_001, evaluation=60_000, artifact=15_930_000, tokenizer=30_000).over == 1


@pytest.mark.parametrize("recipe", [POCKET, TERNARY, SWIGLU], ids=lambda recipe: recipe.name)
def test_the_shown_recipe_builds_the_recipe(recipe: Recipe) -> None:
    code = recipe_code(recipe)
    assert eval(code, classes(recipe)) == recipe
    assert max(map(len, code.splitlines())) <= 110


def classes(spec: Any) -> dict[str, type]:
    """The classes in a tree of specs, by their names."""
    if isinstance(spec, tuple):
        return {name: kind for item in spec for name, kind in classes(item).items()}
    found = {type(spec).__name__: type(spec)}
    if dataclasses.is_dataclass(spec):
        for field in dataclasses.fields(spec):
            found |= classes(getattr(spec, field.name))
    return found
