"""What decides whether a prepared folder holds a recipe's tokens."""

from dataclasses import replace

from bytegolf.recipes.pocket import RECIPE
from bytegolf.running import prepared
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import SentencePiece


def test_folders_prepared_before_casing_was_a_choice_are_still_theirs(tmp_path):
    text = tmp_path / "some.txt"
    text.write_text("Some text.")
    recipe = replace(RECIPE, text=Text(sources=(str(text),)), tokens=SentencePiece(300))
    plain = prepared._source(recipe)["tokens"]
    cased = prepared._source(replace(recipe, tokens=SentencePiece(300, casing=True)))["tokens"]
    assert plain == {name: value for name, value in cased.items() if name != "casing"}
    assert cased["casing"] is True
