"""`bytegolf compare` on run folders that are made up."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bytegolf.cli import main
from bytegolf.report.seeds import read_side

Maker = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Writes what `compare` reads of a finished run, and returns the folder's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def write(name: str, seed: int, nats: float, **changes: Any) -> str:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        plans = changes.pop("plans", ["sliding 64 of 128", "chunked 128"])
        settings = {
            "type": "Recipe",
            "name": name,
            "training": {"seed": seed, "rows": changes.pop("rows", 8)},
            "evaluation": {
                "plans": [{"name": plan} for plan in plans],
                "adaptation": changes.pop("adapt", None),
            },
        }
        data = {"validation_sha256": "a" * 64, "tokenizer_sha256": "b" * 64} | changes
        rows = [
            {"model": model, "plan": plan, "bits_per_byte": nats / 2 + place, "nats_per_token": nats + place}
            for place, plan in enumerate(plans)
            for model in ("float", "artifact")
        ]
        result = {"recipe": "pocket", "seed": seed, "artifact": {"bytes": 985_000 + seed}, "scores": rows}
        data = {key: value for key, value in data.items() if value is not None}
        (folder / "recipe.json").write_text(json.dumps(settings))
        (folder / "environment.json").write_text("{}")
        (folder / "result.json").write_text(json.dumps(result | {"data": data}))
        return name

    return write


def three(make: Maker, group: str, nats: float, **changes: Any) -> str:
    """A group of three seeds around a score."""
    for seed, offset in ((1, -0.001), (2, 0.0), (3, 0.001)):
        make(f"{group}/seed-{seed}", seed, nats + offset, **changes)
    return group


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bytegolf: ")
    assert error.count("\n") == 1, error
    return error


def test_every_seed_is_shown_with_the_verdict(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    three(make, "new", 3.20, rows=16)
    three(make, "old", 3.25)
    assert main(["compare", "new", "--against", "old", "--json", "out.json"]) == 0
    shown = capsys.readouterr().out
    for words in ("sliding 64 of 128", "new/seed-1", "old/seed-3", "3.1990", "1.6005", "985,003", "+0.0500"):
        assert words in shown
    assert "Better by at least 0.005 nats per token: p < 1e-6, below 0.01." in shown
    written = json.loads(Path("out.json").read_text())
    assert written["plan"] == "sliding 64 of 128"
    assert [run["seed"] for run in written["runs"]["runs"]] == [1, 2, 3]
    assert written["runs"]["nats_per_token"]["standard_deviation"] == pytest.approx(0.001)
    # By hand: √(2 · 0.001² / 3) is the standard error, and with equal scatter there are 4 degrees of freedom.
    error = (2 * 0.001**2 / 3) ** 0.5
    assert written["difference"] == pytest.approx(0.05)
    assert written["welch"]["t"] == pytest.approx(0.045 / error)
    assert written["welch"]["degrees"] == pytest.approx(4.0)
    assert 0.0 < written["welch"]["p"] < 1e-6
    assert written["verdict"].startswith("Better by at least 0.005")


def test_margin_and_plan_can_be_chosen(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    three(make, "new", 3.20, rows=16)
    three(make, "old", 3.25)
    words = ["compare", "new", "--against", "old", "--margin", "0.05", "--plan", "chunked 128"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "artifacts, chunked 128" in shown
    assert "4.1990" in shown
    assert "Better, but not by at least 0.05" in shown


def test_one_side_alone_is_a_table(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", 1, 3.1)
    make("b", 2, 3.3)
    assert main(["compare", "a", "b"]) == 0
    shown = capsys.readouterr().out
    assert "3.2000" in shown
    assert "standard deviation" in shown
    assert "0.1414" in shown
    assert "Welch" not in shown
    assert main(["compare", "a", "--json", "one.json"]) == 0
    assert "standard deviation" not in capsys.readouterr().out
    assert json.loads(Path("one.json").read_text())["runs"]["nats_per_token"] == {
        "mean": 3.1,
        "standard_deviation": None,
    }


def test_one_seed_a_side_gives_no_p_value(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", 1, 3.1)
    make("b", 1, 3.3)
    assert main(["compare", "a", "--against", "b", "--json", "out.json"]) == 0
    shown = capsys.readouterr().out
    assert "No verdict: a p-value needs two seeds a side, here are 1 and 1." in shown
    assert "Welch's t-test" not in shown
    assert json.loads(Path("out.json").read_text())["welch"] is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"validation_sha256": "c" * 64}, "validation bytes"), ({"tokenizer_sha256": "c" * 64}, "tokenizer")],
)
def test_runs_of_other_text_or_tokenizer_are_refused(
    make: Maker, capsys: pytest.CaptureFixture[str], changes: dict[str, str], what: str
) -> None:
    three(make, "new", 3.2, rows=16)
    make("old", 1, 3.3, **changes)
    for words in (["new", "--against", "old"], ["new", "old"]):
        error = refusal(capsys, *words)
        assert f"their {what} differ" in error
        assert "'new/seed-1' and 'old'" in error
        assert "cccccccccccc" in error


@pytest.mark.parametrize("key", ["validation_sha256", "tokenizer_sha256"])
def test_results_of_older_versions_are_refused_with_the_remedy(
    make: Maker, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    make("old", 1, 3.2, **{key: None})
    error = refusal(capsys, "old")
    assert f"data.{key}" in error
    assert "`bytegolf compress old`" in error


def test_a_seed_counts_once(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", 1, 3.2)
    make("b", 1, 3.3)
    error = refusal(capsys, "a", "b")
    assert "'a' and 'b' are the same recipe with the same seed 1" in error
    assert "a' is named twice" in refusal(capsys, "a", f"../{Path.cwd().name}/a")
    assert "'a' is on both sides" in refusal(capsys, "a", "--against", "./a")
    # The same recipe and seed on the other side is another version of the code, perhaps.
    assert main(["compare", "a", "--against", "b"]) == 0


def test_a_mixed_side_is_told(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", 1, 3.2)
    make("b", 1, 3.3, rows=16)
    make("c", 2, 3.3)
    assert main(["compare", "a", "b"]) == 0
    assert "note: these runs differ in training.rows" in capsys.readouterr().out
    make("d", 2, 3.3, adapt="all")
    assert main(["compare", "a", "d"]) == 0
    assert "note: these runs differ in evaluation.adaptation" in capsys.readouterr().out
    make("e", 3, 3.3, plans=["chunked 128"])
    assert main(["compare", "a", "c", "e", "--plan", "chunked 128"]) == 0
    assert "note:" not in capsys.readouterr().out


def test_a_group_leaves_no_seed_out_silently(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    three(make, "group", 3.2)
    make("group/seed-10", 10, 3.2)
    Path("group/seed-2/result.json").unlink()
    assert [seed.seed for seed in read_side(["group"]).seeds] == [1, 3, 10]
    assert main(["compare", "group"]) == 0
    assert "note: group/seed-2 is unfinished and left out" in capsys.readouterr().out
    assert "'group/seed-2' is unfinished" in refusal(capsys, "group/seed-2")


def test_a_sweep_of_several_groups_is_not_averaged(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    three(make, "sweep/rows=8", 3.2)
    Path("sweep/sweep.json").write_text("{}")
    assert main(["compare", "sweep"]) == 0
    capsys.readouterr()
    three(make, "sweep/rows=16", 3.2, rows=16)
    assert "sweep/rows=16, sweep/rows=8" in refusal(capsys, "sweep")


def test_the_plan_is_one_that_all_runs_share(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", 1, 3.2, plans=["sliding 1 of 2", "chunked 2"])
    make("b", 2, 3.2, plans=["chunked 2"])
    make("c", 3, 3.2, plans=["chunked 4"])
    assert main(["compare", "a", "b"]) == 0
    assert "artifacts, chunked 2" in capsys.readouterr().out
    assert "they share 'chunked 2'" in refusal(capsys, "a", "b", "--plan", "sliding 1 of 2")
    assert "share no scoring plan" in refusal(capsys, "a", "c")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "compare needs RUN…; write bytegolf compare RUN…"),
        (["absent"], "'absent' does not exist"),
        (["empty"], "holds no finished run"),
        (["damaged"], "is not JSON"),
        (["scoreless"], "lacks the seed"),
        (["a", "--against"], "--against needs one value or more"),
        (["a", "--against", "absent"], "'absent' does not exist"),
        (["a", "--margin", "much"], "--margin is 'much'"),
        (["a", "--margin", "-1"], "0 or more"),
        (["a", "--plan", "none"], "plan 'none'"),
        (["a", "--plans", "x"], "did you mean --plan?"),
    ],
)
def test_mistakes_are_one_line(
    make: Maker, capsys: pytest.CaptureFixture[str], words: list[str], part: str
) -> None:
    make("a", 1, 3.2)
    make("damaged", 1, 3.2)
    make("scoreless", 1, 3.2, plans=[])
    Path("damaged/result.json").write_text("{")
    Path("empty").mkdir()
    assert part in refusal(capsys, *words)


def test_comparing_needs_no_torch(make: Maker) -> None:
    make("a", 1, 3.2)
    code = "import sys; from bytegolf.cli import main; main(['compare', 'a']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
