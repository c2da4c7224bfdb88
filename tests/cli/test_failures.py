"""Which errors are the user's to put right, and how each is told."""

import errno

import pytest
import torch

from bytegolf import cli
from bytegolf.cli.failures import explain
from bytegolf.errors import BytegolfError


def test_errors_of_the_user_are_told_in_one_line() -> None:
    assert explain(BytegolfError("a\n  b")) == "a b"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EISDIR])
def test_errors_of_the_system_name_the_file_and_a_remedy(number: int) -> None:
    line = explain(OSError(number, "reason", "runs/x/artifact.bg"))
    assert line is not None
    assert line.startswith("runs/x/artifact.bg: reason; ")


def test_an_error_of_the_system_without_a_file_still_has_its_reason() -> None:
    assert explain(OSError(errno.ENOSPC, "No space left on device")) == (
        "No space left on device; free some space, or name a folder on another disk"
    )
    assert explain(OSError("odd")) == "odd"


def test_too_little_memory_names_the_settings_that_need_less() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    for error in (caught.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        assert "training.forward_rows" in str(explain(error))


def test_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    assert explain(RuntimeError("ours")) is None
    assert explain(ValueError("ours")) is None

    def broken(words: list[str]) -> int:
        raise KeyError("ours")

    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(KeyError):
        cli.main(["recipes"])


def test_ctrl_c_anywhere_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stopped)
    assert cli.main(["recipes"]) == 130
    assert capsys.readouterr().err == "bytegolf: stopped\n"
