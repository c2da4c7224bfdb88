"""Dotted paths: what they reach, what they accept, and the one line for what they don't."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.cli.arguments import read_options
from bytegolf.cli.draft import Draft
from bytegolf.compression.spec import FixedBits
from bytegolf.errors import BytegolfError, RecipeError
from bytegolf.evaluation.windows import Chunked, PerDocument
from bytegolf.model.mlp import SwiGlu
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.tokens.spec import Bytes, SentencePiece, TokenizerFile
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training
from bytegolf.tree import to_json

RECIPE = Recipe(
    name="small",
    tokens=SentencePiece(vocabulary=512),
    model=Model(width=64, layers=(Block(),) * 3),
    training=Training(budget=Budget(seconds=5)),
)


def changed(*words: str) -> Recipe:
    draft = Draft.of(RECIPE)
    assert read_options(words, [draft], short={"text": "text.sources"}) == []
    return draft.build()


def line(*words: str) -> str:
    with pytest.raises(BytegolfError) as caught:
        changed(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_changed_is_the_same_recipe() -> None:
    assert Draft.of(RECIPE).build() == RECIPE


def test_a_leaf_is_changed_and_nothing_else() -> None:
    assert changed("--model.width", "256") == replace(RECIPE, model=replace(RECIPE.model, width=256))


def test_values_follow_an_equals_sign_too_and_hyphens_stand_for_underscores() -> None:
    assert changed("--training.checkpoint-seconds=7").training.checkpoint_seconds == 7.0


def test_an_index_reaches_one_item_and_a_star_every_one() -> None:
    one = changed("--model.layers.1.mixer.window", "128").model.layers
    assert [layer.mixer.window for layer in one] == [None, 128, None]
    every = changed("--model.layers.*.mixer.window", "128").model.layers
    assert [layer.mixer.window for layer in every] == [128, 128, 128]


def test_settings_that_only_fit_together_can_be_changed_in_turn() -> None:
    layers = changed("--model.layers.*.mixer.heads", "3", "--model.layers.*.mixer.key_value_heads", "3")
    assert {layer.mixer.heads for layer in layers.model.layers} == {3}
    assert "heads=3 is no multiple of key_value_heads=4" in line("--model.layers.*.mixer.heads", "3")


def test_a_class_is_chosen_by_name_and_its_settings_after_it() -> None:
    assert changed("--tokens", "Bytes").tokens == Bytes()
    assert changed("--tokens", "TokenizerFile", "--tokens.path", "a.model").tokens == TokenizerFile("a.model")
    assert changed("--tokens.vocabulary", "700").tokens == SentencePiece(700)


def test_a_new_class_keeps_the_settings_that_it_shares_with_the_old_one() -> None:
    assert changed("--model.layers.0.mlp", "SwiGlu").model.layers[0].mlp == SwiGlu(hidden=1024)


def test_a_class_with_what_it_needs_can_be_json() -> None:
    found = changed("--model.layers.*.mlp", '{"type": "SwiGlu", "hidden": 96}')
    assert {layer.mlp for layer in found.model.layers} == {SwiGlu(96)}


def test_none_and_back() -> None:
    assert changed("--training.average", "none").training.average is None
    assert changed("--training.clip", "none").training.clip is None
    assert changed("--training.clip", "0.5").training.clip == 0.5
    again = changed("--training.average", "none", "--training.average", "Average")
    assert again.training.average == Average()


def test_lists_take_several_values_or_json() -> None:
    assert changed("--text", "a.txt", "b/", "--model.width", "32").text.sources == ("a.txt", "b/")
    assert changed("--training.validate_at", "0.1", "0.9").training.validate_at == (0.1, 0.9)
    assert changed("--text.validation", "[]").text.validation == ()
    plans = changed("--evaluation.plans", "PerDocument", '{"type": "Chunked", "length": 9}').evaluation.plans
    assert plans == (PerDocument(), Chunked(9))
    assert changed("--evaluation.plans.1.length", "77").evaluation.plans[1] == Chunked(77)


def test_switches_stand_alone_or_with_a_value() -> None:
    name = "--training.optimizers.matrices.equalize_rows"
    assert changed(name).training.optimizers.matrices.equalize_rows is True
    assert changed("--model.skips", "false", "--name", "x").model.skips is False


def test_negative_numbers_and_words_after_a_value_are_kept_apart() -> None:
    draft = Draft.of(RECIPE)
    assert read_options(["a", "--text.split_seed", "3", "b", "--model.width", "8"], [draft]) == ["a", "b"]
    assert "split_seed is -1" in line("--text.split_seed", "-1")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--model.widht", "5"], ["--model.widht is unknown", "did you mean --model.width?"]),
        (["--width", "5"], ["--width is unknown", "did you mean --model.width?"]),
        (["--model.layers.*.mixer.windw", "5"], ["did you mean --model.layers.*.mixer.window?"]),
        (["--nothing.like.it", "5"], ["--nothing.like.it is unknown", "--help"]),
        (["--model.zzzzzz", "5"], ["--model.zzzzzz is unknown", "width, layers"]),
        (["--model.width", "wide"], ["--model.width is 'wide'", "a whole number"]),
        (["--model.width", "2.5"], ["--model.width is '2.5'", "a whole number"]),
        (["--model.width"], ["--model.width needs a value", "a whole number"]),
        (["--model.width", "--name", "x"], ["--model.width needs a value"]),
        (["--model.width.deep", "5"], ["--model.width.deep is unknown", "a whole number"]),
        (["--model.soft_cap", "nan"], ["--model.soft_cap is 'nan'", "a number or none"]),
        (["--model.skips=perhaps"], ["--model.skips is 'perhaps'", "true or false"]),
        (["--model", "5"], ["--model is '5'", "Model is a group of settings, such as .width"]),
        (["--model.layers.3.mlp.hidden", "5"], ["--model.layers has no item '3'", "0 to 2"]),
        (["--model.layers.x.mlp.hidden", "5"], ["--model.layers has no item 'x'"]),
        (["--training.precision", "fp8"], ["--training.precision is 'fp8'", "auto, float64"]),
        (["--tokens", "Byte"], ["--tokens is 'Byte'", "did you mean Bytes?"]),
        (["--tokens", "{"], ["--tokens is '{'", "no JSON"]),
        (["--tokens", '{"type": "Bytes", "x": 1}'], ["--tokens.x is unknown"]),
        (["--model.layers.0.mlp", '{"type": "SwiGlu"}'], ["--model.layers.0.mlp.hidden is missing"]),
        (["--tokens", "TokenizerFile"], ["tokens.path is missing"]),
        (
            ["--training.average", "none", "--training.average.decay", "1"],
            ["first --training.average Average"],
        ),
        (["--text.sources"], ["--text.sources needs one value or more"]),
        (["--text.sources.0.x", "5"], ["unknown"]),
        (["--model.width", "0"], ["model: width=0 is too small"]),
        (["--training.budget.tokens", "3"], ["budget.tokens=3 is too small for one step"]),
        (["--", "x"], ["-- is unknown"]),
    ],
)
def test_mistakes_are_one_line_with_value_and_remedy(words: list[str], parts: list[str]) -> None:
    message = line(*words)
    assert [part for part in parts if part not in message] == [], message


def test_every_listed_path_can_be_reached() -> None:
    draft = Draft.of(RECIPE)
    paths = draft.paths()
    assert {"model.layers.2.mixer.heads", "training.budget.tokens", "compression.plan.grid.bits"} <= set(
        paths
    )
    assert len(paths) == len(set(paths))
    for path in paths:
        assert draft.has(path)
        draft.takes_many(path)


def leaves(data: object, path: str = "") -> dict[str, object]:
    if isinstance(data, dict):
        found: dict[str, object] = {}
        for key, value in data.items():
            if key != "type":
                found |= leaves(value, f"{path}.{key}".lstrip("."))
        return found
    if isinstance(data, list) and any(isinstance(item, dict) for item in data):
        return {k: v for i, item in enumerate(data) for k, v in leaves(item, f"{path}.{i}").items()}
    return {path: data}


def test_every_leaf_can_be_written_as_it_is() -> None:
    # Each setting of the recipe, given back as a word of the command line, changes nothing.
    words: list[str] = []
    for path, value in leaves(to_json(RECIPE)).items():
        words.append(f"--{path}={json.dumps(value) if isinstance(value, list) else value}")
    assert changed(*words) == RECIPE


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*Draft.of(RECIPE).paths(), "x", "model.*", "text"]), max_size=3), st.data())
def test_any_words_give_a_recipe_or_an_error_of_the_user(paths: list[str], data: st.DataObject) -> None:
    values = st.sampled_from(
        ["", "1", "-3", "none", "true", "x", "[]", "{}", "[1", "Bytes", "1e400", "1" * 400]
    )
    words = [f"--{path}={data.draw(st.one_of(values, st.text(max_size=8)))}" for path in paths]
    with contextlib.suppress(BytegolfError):
        assert isinstance(changed(*words), Recipe)


def test_blank_needs_what_has_no_default() -> None:
    draft = Draft.blank(FixedBits)
    assert draft.build() == FixedBits()
    with pytest.raises(RecipeError, match="hidden is missing"):
        Draft.blank(SwiGlu).build()
