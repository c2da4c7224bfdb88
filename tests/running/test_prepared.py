"""What decides whether a prepared folder holds a recipe's tokens."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from bytegolf.errors import ShardError
from bytegolf.recipe import Recipe
from bytegolf.recipes.pocket import RECIPE
from bytegolf.running import prepared
from bytegolf.running.progress import Display
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes, SentencePiece
from bytegolf.training.ranks import Ranks


def test_folders_prepared_before_casing_was_a_choice_are_still_theirs(tmp_path: Path) -> None:
    text = tmp_path / "some.txt"
    text.write_text("Some text.")
    recipe = replace(RECIPE, text=Text(sources=(str(text),)), tokens=SentencePiece(300))
    plain = prepared._source(recipe)["tokens"]
    cased = prepared._source(replace(recipe, tokens=SentencePiece(300, casing=True)))["tokens"]
    assert plain == {name: value for name, value in cased.items() if name != "casing"}
    assert cased["casing"] is True


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"Text number {number}, of its own: {number**3}.")
    return replace(
        RECIPE, text=Text(sources=(str(folder),)), tokens=Bytes(), prepared=str(tmp_path / "tokens")
    )


def opened(recipe: Recipe) -> str:
    """The digest of the tokens that a recipe gets."""
    found = prepared.open_data(recipe, Path("unused"), Ranks(), Display(None))
    return str(found.manifest["files"])


def test_tokens_are_kept_while_only_a_files_time_changes(recipe: Recipe, tmp_path: Path) -> None:
    tokens = opened(recipe)
    manifest = (tmp_path / "tokens" / "manifest.json").read_bytes()
    os.utime(tmp_path / "text" / "3.txt", (1, 1))
    assert opened(recipe) == tokens
    assert (tmp_path / "tokens" / "manifest.json").read_bytes() == manifest


def test_a_file_of_the_same_size_with_other_text_is_noticed(recipe: Recipe, tmp_path: Path) -> None:
    opened(recipe)
    text = tmp_path / "text" / "3.txt"
    text.write_text(text.read_text().replace("its own", "an odd "))
    with pytest.raises(ShardError, match=r"other text: files is \['[^,]*3\.txt',[^\[]*\] there and"):
        opened(recipe)


def test_one_file_more_is_noticed(recipe: Recipe, tmp_path: Path) -> None:
    opened(recipe)
    (tmp_path / "text" / "more.txt").write_text("More.")
    with pytest.raises(ShardError, match="was prepared from other text"):
        opened(recipe)


def test_folders_prepared_before_digests_were_kept_are_still_theirs(recipe: Recipe, tmp_path: Path) -> None:
    tokens = opened(recipe)
    path = tmp_path / "tokens" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["source"]["files"] = [entry[:3] for entry in manifest["source"]["files"]]
    path.write_text(json.dumps(manifest))
    assert opened(recipe) == tokens
    os.utime(tmp_path / "text" / "3.txt", (1, 1))
    with pytest.raises(ShardError, match="was prepared from other text"):
        opened(recipe)
