"""The doctor's table must say what really runs."""

import dataclasses
import importlib.util

import pytest
import torch
from rich.console import Console

from bytegolf import doctor
from bytegolf.doctor import Finding, Machine, diagnose, print_diagnosis, this_machine
from bytegolf.errors import PackageError
from bytegolf.kernels import activated_projection, attention, capped_loss, rms_norm

CPU = Machine(torch.device("cpu"), "", 4, 4, bfloat16=False, compiler=True)
GPU = Machine(torch.device("cuda"), "Example 9000", 16, 8, bfloat16=True, compiler=True)


def choices(machine: Machine | None = None) -> dict[str, str]:
    return {finding.subject: finding.choice for finding in diagnose(machine)}


def test_every_row_says_what_and_why_and_stands_once() -> None:
    for machine in (CPU, GPU, None):
        findings = diagnose(machine)
        assert all(finding.subject and finding.choice and finding.reason for finding in findings)
        subjects = [finding.subject for finding in findings]
        assert len(set(subjects)) == len(subjects)


def test_the_cpu_bodies_named_are_the_ones_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def spy(module: object, name: str, label: str) -> None:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: ran.append(label) or original(*a, **k))

    spy(attention, "reference_attention", "reference")
    spy(attention, "varlen_attention", "varlen")
    spy(capped_loss, "chunked_capped_cross_entropy", "chunked")
    spy(capped_loss.reference, "capped_cross_entropy", "reference")
    spy(rms_norm, "saved_rms_norm", "saved")
    spy(rms_norm, "reference_rms_norm", "reference")
    spy(activated_projection.reference, "squared_projection", "reference")
    here = choices(CPU)
    rms_norm.rms_norm(torch.randn(2, 4))
    capped_loss.capped_cross_entropy(torch.randn(3, 4), torch.randn(5, 4), None, torch.zeros(3).long(), None)
    activated_projection.squared_projection(torch.randn(3, 4), torch.randn(5, 4), 0.5)
    q, places, document = torch.randn(1, 3, 2, 4), torch.arange(3), torch.zeros(1, 3).long()
    attention.attend(
        q,
        q,
        q,
        document_BT=document,
        key_document_BS=document,
        positions_T=places,
        key_positions_S=places,
        window=None,
        segments=None,
    )
    assert ran == [here["normalization"], here["loss"], here["MLP"], here["attention"]]


def test_precision_follows_what_training_takes() -> None:
    assert choices(CPU)["precision"] == "float32"
    assert choices(GPU)["precision"] == "bfloat16"
    expected = doctor.compute_dtype("auto", this_machine().device)
    assert f"torch.{choices()['precision']}" == str(expected)


@pytest.mark.parametrize("missing", ["triton", "compiler"])
def test_without_triton_or_a_compiler_a_gpu_stores_its_logits(missing: str) -> None:
    bare = dataclasses.replace(GPU, **{missing: False})
    assert choices(GPU)["loss"] == choices(GPU)["MLP"] == "triton"
    assert choices(bare)["loss"] == choices(bare)["MLP"] == "reference"


def test_flash_attention_4_is_named_where_it_trains_and_where_it_will_fail() -> None:
    def row(**changes: str) -> Finding:
        machine = dataclasses.replace(GPU, **changes)
        return next(finding for finding in diagnose(machine) if finding.subject == "attention")

    assert row().choice == "varlen"
    assert row(flash4="4.0.0b36").choice == "flash4"
    assert "4.0.0b36 for training" in row(flash4="4.0.0b36").reason
    broken = row(flash4="4.0.0b36", flash4_problem="does not fit")
    assert broken == Finding("attention", "flash4, will fail", "does not fit")


def test_a_flash_attention_4_that_cannot_be_loaded_is_found_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise PackageError("no kernels in it")

    assert this_machine().flash4_problem == ""
    monkeypatch.setattr(doctor, "load_flash4", fail)
    monkeypatch.setattr(doctor, "FLASH4_VERSION", "4.0.0b36")
    for trains in (False, True):
        monkeypatch.setattr(doctor, "flash4_trains_on", lambda device, trains=trains: trains)
        machine = this_machine()
        assert machine.flash4 == ("4.0.0b36" if trains else None)
        assert machine.flash4_problem == ("no kernels in it" if trains else "")


def test_compiling_without_a_compiler_is_said_before_it_fails() -> None:
    assert choices(GPU)["compile"] == "on"
    bare = Machine(torch.device("cuda"), "Example 9000", 16, 8, bfloat16=True, compiler=False)
    (row,) = (finding for finding in diagnose(bare) if finding.subject == "compile")
    assert "fail" in row.choice
    assert "--training.compile off" in row.reason
    assert choices(CPU)["compile"] == "off"


def test_a_missing_package_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = {finding.subject: finding for finding in diagnose(CPU)}
    assert rows["pyarrow"] == Finding(
        "pyarrow", "missing", "adds texts in .parquet: pip install 'bytegolf[data]'"
    )
    print_diagnosis(Console(width=200), list(rows.values()))
    assert "pip install 'bytegolf[data]'" in capsys.readouterr().out


def test_each_extra_named_exists_and_holds_the_package() -> None:
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    for module, _, extra in doctor._OPTIONAL:
        assert any(line.startswith(module.replace("_", "-")) for line in extras[extra]), module
