"""Tokens made in a process of their own are those made here, and whatever goes wrong there is said here."""

import time
from pathlib import Path

import pytest

from bytegolf.errors import ShardError, TextError, TokenizerError
from bytegolf.text.spec import Text
from bytegolf.tokens import making
from bytegolf.tokens.making import TokensToMake, made_meanwhile, make_tokens
from bytegolf.tokens.shards import open_prepared
from bytegolf.tokens.spec import Bytes, SentencePiece, TokenizerFile, Tokens


def job(folder: Path, name: str, tokens: Tokens | None = None) -> TokensToMake:
    text = folder / "text.jsonl"
    if not text.exists():
        lines = [f'{{"text": "Text {number}, and {number**3} too: {"ab" * number}"}}' for number in range(40)]
        text.write_text("\n".join(lines), encoding="utf-8")
    files = [[str(text), text.stat().st_size, 0]]
    return TokensToMake(
        Text(sources=(str(text),)), tokens or Bytes(), folder / name, {"made": "of this", "files": files}
    )


@pytest.mark.parametrize("tokens", [Bytes(), SentencePiece(280, casing=True)])
def test_the_folder_is_the_one_that_is_made_here(tmp_path: Path, tokens: Tokens) -> None:
    said: list[str] = []
    here = make_tokens(job(tmp_path, "here", tokens), said.append)
    told: list[str] = []
    with made_meanwhile(job(tmp_path, "there", tokens), told.append):
        pass
    assert open_prepared(tmp_path / "there").manifest == here.manifest
    assert told == said
    assert said[0] == "reading text …"


def test_the_block_runs_while_tokens_are_made(tmp_path: Path) -> None:
    with made_meanwhile(job(tmp_path, "there"), lambda message: None):
        # Starting a process takes longer than this.
        assert not (tmp_path / "there").exists()
    assert (tmp_path / "there" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("error", "tokens"), [(TextError, None), (TokenizerError, TokenizerFile("/no/such/file.model"))]
)
def test_its_errors_are_raised_here_in_the_same_words(
    tmp_path: Path, error: type[Exception], tokens: Tokens | None
) -> None:
    asked = job(tmp_path, "there", tokens)
    if tokens is None:
        (tmp_path / "text.jsonl").write_text("{not json\n")
    with pytest.raises(error) as here:
        make_tokens(asked, lambda message: None)
    ran = []
    with pytest.raises(error) as there, made_meanwhile(asked, lambda message: None):
        ran.append(True)
    assert str(there.value) == str(here.value)
    assert ran == [True]


def test_a_process_that_dies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_PROGRAM", "import os; os._exit(9)")
    with (
        pytest.raises(ShardError, match="the process that prepares text died"),
        made_meanwhile(job(tmp_path, "there"), lambda message: None),
    ):
        pass


def test_what_is_printed_there_does_not_disturb_what_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = making._PROGRAM.replace(
        "making.main()",
        "read = making.load_text\nmaking.load_text = lambda t: print('noise') or read(t)\nmaking.main()",
    )
    monkeypatch.setattr(making, "_PROGRAM", noisy)
    told: list[str] = []
    with made_meanwhile(job(tmp_path, "there"), told.append):
        pass
    assert told[0] == "reading text …"
    assert (tmp_path / "there" / "manifest.json").exists()


def test_an_error_in_the_block_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = making._PROGRAM.replace(
        "making.main()", "import time\nmaking.load_text = lambda t: time.sleep(300)\nmaking.main()"
    )
    monkeypatch.setattr(making, "_PROGRAM", slow)
    told: list[str] = []

    def interrupted() -> None:
        with made_meanwhile(job(tmp_path, "there"), told.append):
            while not told:
                time.sleep(0.01)
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 60
    assert not (tmp_path / "there").exists()
