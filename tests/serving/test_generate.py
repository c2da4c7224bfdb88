"""Writing: the same distribution as one full forward, the settings, document ends, and long texts."""

import itertools
from collections.abc import Sequence

import pytest
import torch

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.serving.generate import generate, text
from bytegolf.text.documents import Document
from bytegolf.tokens.tokenizer import ByteTokenizer, Tokenizer, train_sentencepiece

TOKENIZER = ByteTokenizer()
CASED, CASED_BEFORE_SPACE = (
    train_sentencepiece([Document("The end of THE launch, " * 9, "a")], 275, casing=casing)
    for casing in (True, "before_space")
)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(3)
    layer = Block(Attention(heads=2, key_value_heads=1, window=5), SquaredMlp(hidden=24))
    model = Model(width=16, layers=(layer,) * 3, vocabulary=TOKENIZER.vocabulary).build()
    with torch.no_grad():
        for parameter in model.parameters():
            # Projections out of a block start at zero: then no layer would matter.
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


class Scripted:
    """Stands in for a model: at its k-th call, `script[k]` is certain."""

    device = torch.device("cpu")

    def __init__(
        self, script: Sequence[int], *, then: int = TOKENIZER.bos, vocabulary: int = TOKENIZER.vocabulary
    ) -> None:
        self.script, self.then, self.vocabulary, self.fed = script, then, vocabulary, []

    def hidden(self, ids_BT, stream) -> torch.Tensor:
        self.fed.append((ids_BT[0].tolist(), stream.starts_BT[0].tolist()))
        return ids_BT[..., None]

    def distribution(self, h) -> torch.Tensor:
        written = len(self.fed) - 1
        scores = torch.full((1, self.vocabulary), -50.0)
        scores[..., self.script[written] if written < len(self.script) else self.then] = 0.0
        return scores


def greedy_by_full_forward(model: LanguageModel, prompt: bytes, count: int) -> bytes:
    ids = [TOKENIZER.bos, *prompt]
    for _ in range(count):
        starts = torch.zeros(1, len(ids), dtype=torch.bool)
        starts[0, 0] = True
        scores = model.log_probabilities(torch.tensor([ids]), starts)[0, -1].clone()
        scores[TOKENIZER.bos] = -torch.inf
        ids.append(int(scores.argmax()))
    return bytes(ids[1 + len(prompt) :])


def written(model: LanguageModel, prompt: str | bytes = b"abc", **settings: object) -> bytes:
    settings = {"tokens": 30, "stop_at_document_end": False, **settings}
    return b"".join(generate(model, TOKENIZER, prompt, **settings))


def test_writing_with_memory_gives_what_full_forwards_give(model: LanguageModel) -> None:
    assert written(model, temperature=0.0) == greedy_by_full_forward(model, b"abc", 30)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}])
def test_every_way_to_leave_one_choice_is_greedy(model: LanguageModel, settings: dict[str, float]) -> None:
    assert written(model, **settings) == written(model, temperature=0.0)


def test_a_seed_fixes_the_text_and_another_changes_it(model: LanguageModel) -> None:
    assert written(model, seed=1) == written(model, seed=1)
    assert written(model, seed=1) != written(model, seed=2)
    assert len({written(model, seed=None) for _ in range(3)}) > 1


def test_draws_follow_the_distribution(model: LanguageModel) -> None:
    starts = torch.tensor([[True, False]])
    expected = (
        model.log_probabilities(torch.tensor([[TOKENIZER.bos, 97]]), starts)[0, -1, :256].detach().softmax(0)
    )
    draws = [written(model, b"a", tokens=1, temperature=1.0, seed=seed)[0] for seed in range(1000)]
    likely = int(expected.argmax())
    share, chance = draws.count(likely) / 1000, float(expected[likely])
    assert abs(share - chance) < 4 * (chance * (1 - chance) / 1000) ** 0.5


def test_top_k_and_top_p_keep_only_the_likeliest(model: LanguageModel) -> None:
    starts = torch.tensor([[True, False]])
    ranks = model.log_probabilities(torch.tensor([[TOKENIZER.bos, 97]]), starts)[0, -1, :256].detach()
    order = ranks.argsort(descending=True).tolist()
    seen = {written(model, b"a", tokens=1, temperature=3.0, top_k=4, seed=seed)[0] for seed in range(100)}
    assert seen == set(order[:4])
    cumulative = (ranks / 3.0).softmax(0)[order].cumsum(0)
    nucleus = set(order[: int((cumulative < 0.1).sum()) + 1])
    seen = {written(model, b"a", tokens=1, temperature=3.0, top_p=0.1, seed=seed)[0] for seed in range(300)}
    assert seen <= nucleus
    assert len(seen) > len(nucleus) // 2


def test_the_end_of_the_document_ends_the_text_and_is_never_written() -> None:
    pieces = list(generate(Scripted(b"xyz"), TOKENIZER, "", temperature=0.0))
    assert pieces == [b"x", b"y", b"z"]


def test_without_stopping_the_document_goes_on() -> None:
    script = Scripted(b"xyz")
    assert len(list(generate(script, TOKENIZER, "", tokens=9, stop_at_document_end=False))) == 9


def test_characters_spread_over_tokens_are_joined_and_a_cut_one_is_marked() -> None:
    script = "naïve 語".encode()
    assert text(Scripted(script), TOKENIZER, "", tokens=50) == "naïve 語"
    assert text(Scripted(script), TOKENIZER, "", tokens=len(script) - 1) == "naïve \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("prompt", "continuation"),
    [("The", " NASA Launch"), ("", "iPhone"), ("the \ue001", "Café\ue002")],
)
@pytest.mark.parametrize("tokenizer", [CASED, CASED_BEFORE_SPACE])
def test_markers_are_written_as_the_capitals_they_mark(
    tokenizer: Tokenizer, prompt: str, continuation: str
) -> None:
    whole, begun = tokenizer.encode(prompt + continuation).tolist(), len(tokenizer.encode(prompt))
    script = Scripted(whole[begun:], then=tokenizer.bos, vocabulary=tokenizer.vocabulary)
    pieces = list(generate(script, tokenizer, prompt, temperature=0.0))
    assert b"".join(pieces).decode() == continuation
    assert pieces.count(b"") == sum(token in tokenizer.markers for token in whole[begun:])


def test_a_word_that_the_prompt_leaves_in_capitals_goes_on_so() -> None:
    script = Scripted(CASED.encode("sa x").tolist(), then=CASED.bos, vocabulary=CASED.vocabulary)
    assert text(script, CASED, "The NA", temperature=0.0) == "SA x"


def test_behind_a_space_of_the_prompt_a_word_can_still_be_a_capital_one() -> None:
    tokenizer = CASED_BEFORE_SPACE
    ids = [tokenizer.markers[1], *tokenizer.encode("nasa").tolist()]
    script = Scripted(ids, then=tokenizer.bos, vocabulary=tokenizer.vocabulary)
    assert text(script, tokenizer, "The ", temperature=0.0) == "NASA"


def test_misplaced_markers_are_written_without_effect() -> None:
    title, capitals, *_ = CASED.markers
    ids = [title, capitals, *CASED.encode(" go"), title, title]
    script = Scripted(ids, then=CASED.bos, vocabulary=CASED.vocabulary)
    assert text(script, CASED, "", temperature=0.0) == " go"


def test_a_prompt_of_any_bytes_is_taken(model: LanguageModel) -> None:
    assert written(model, b"\xff\x00\xe2", temperature=0.0) == greedy_by_full_forward(
        model, b"\xff\x00\xe2", 30
    )


def test_beyond_the_context_the_memory_starts_afresh_from_the_last_half() -> None:
    script = Scripted(b"a" * 100, then=ord("a"))
    list(generate(script, TOKENIZER, "0123456789", tokens=12, context=8))
    lengths = [len(ids) for ids, _ in script.fed]
    assert script.fed[0] == (list(b"6789"), [False] * 4)
    assert lengths == [4, 1, 1, 1, 1, 4, 1, 1, 1, 1, 4, 1]
    assert script.fed[5][0] == list(b"aaaa")
    runs = [len(list(group)) for length, group in itertools.groupby(lengths) if length == 1]
    assert max(runs) + 4 == 8


def test_a_text_within_the_context_is_not_cut(model: LanguageModel) -> None:
    assert written(model, tokens=4, context=8) == written(model, tokens=4)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokens": -1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"context": 1},
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    model: LanguageModel, settings: dict[str, float]
) -> None:
    name = next(iter(settings))
    with pytest.raises(RecipeError, match=f"{name}="):
        generate(model, TOKENIZER, "", **settings)
