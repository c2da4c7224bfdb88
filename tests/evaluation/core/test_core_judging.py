"""Which answers are right, worked by hand; and that nothing depends on what is read together."""

import math
from collections.abc import Sequence

import pytest
import torch
from toy_core import ITEMS, ScriptedReader

from bytegolf.evaluation.core.judging import Answer, answers
from bytegolf.evaluation.core.reader import ModelReader
from bytegolf.evaluation.core.tasks import Task
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.smear import SmearGate
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.tokens.tokenizer import ByteTokenizer

CHOICE = Task("choice", "c.jsonl", "multiple_choice", 0)
SCHEMA = Task("schema", "s.jsonl", "schema", 0)
WRITE = Task("write", "w.jsonl", "language_modeling", 0)


def asked(reader: ScriptedReader, task: Task, items: Sequence[dict], indexes: Sequence[int]) -> list[Answer]:
    return [answer for some in answers(reader, task, items, indexes) for answer in some]


def test_the_lowest_mean_is_chosen_not_the_lowest_sum() -> None:
    item = {"query": "Q", "choices": ["a", "bcd"], "gold": 1}
    # −ln p: "a" 0.9 in one id; "bcd" 0.9 + 0.6 + 0.6 in three, whose mean is 0.7.
    reader = ScriptedReader({"Q ": {"a": 0.9, "b": 0.9}, "b": {"c": 0.6}, "bc": {"d": 0.6}})
    (answer,) = asked(reader, CHOICE, [item], [0])
    assert answer.correct
    assert answer.option == 1
    assert answer.nats == pytest.approx((0.9, 0.7))


def test_the_first_of_equals_is_chosen() -> None:
    item = {"query": "Q", "choices": ["a", "b"], "gold": 0}
    (answer,) = asked(ScriptedReader({}), CHOICE, [item], [0])
    assert (answer.option, answer.correct, answer.nats) == (0, True, (1.0, 1.0))


def test_an_option_that_another_begins_with_has_nothing_to_judge() -> None:
    item = {"query": "Q", "choices": ["a", "ab"], "gold": 1}
    (answer,) = asked(ScriptedReader({}), CHOICE, [item], [0])
    assert math.isnan(answer.nats[0])
    # As `list.index(min(…))` of the protocol has it, a number that is none stays where it stands first.
    assert answer.option == 0


def test_schema_is_judged_by_what_the_options_share() -> None:
    item = {"context_options": ["The cat", "A mouse"], "continuation": "ran", "gold": 1}
    # The contexts themselves are not judged, however unlikely.
    reader = ScriptedReader({"T": {"h": 9.0}, "mouse ": {"r": 0.2}})
    (answer,) = asked(reader, SCHEMA, [item], [0])
    assert answer.correct
    # " ran" is shared: of the first 1 each, of the second 1, 0.2, 1, 1.
    assert answer.nats == pytest.approx((1.0, 0.8))


@pytest.mark.parametrize(("last", "correct"), [(0.4, True), (0.6, False)])
def test_all_of_a_continuation_has_to_be_the_likeliest(last: float, correct: bool) -> None:
    item = {"context": "one", "continuation": "xy"}
    reader = ScriptedReader({"one": {" ": 0.1}, "one ": {"x": 0.1}, "x": {"y": last}})
    (answer,) = asked(reader, WRITE, [item], [0])
    assert (answer.correct, answer.option) == (correct, None)
    assert answer.nats == pytest.approx(((0.2 + last) / 3,))


@pytest.mark.parametrize("task", [CHOICE, SCHEMA, WRITE], ids=lambda task: task.kind)
def test_passes_change_no_answer(task: Task) -> None:
    items = ITEMS[task.kind]
    script = {" ": {"n": 0.3, "r": 0.2, "t": 0.4}, "e": {"s": 0.2, "r": 0.1}}
    indexes = range(len(items))
    together, alone = ScriptedReader(script, 10_000), ScriptedReader(script, 1)
    found = asked(together, task, items, indexes)
    assert found == asked(alone, task, items, indexes)
    assert [answer.index for answer in found] == list(indexes)
    assert len(together.passes) == 1
    assert all(len(lengths) == 1 for lengths in alone.passes)


def toy_model() -> LanguageModel:
    torch.manual_seed(0)
    block = Block(Attention(2, 1), SquaredMlp(32))
    model = Model(
        width=16, layers=(block,) * 2, vocabulary=ByteTokenizer().vocabulary, smear=SmearGate()
    ).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_a_model_of_ours_predicts_in_a_batch_what_it_predicts_alone() -> None:
    model, tokenizer = toy_model(), ByteTokenizer()
    reader = ModelReader(model, tokenizer, name="toy", digest="0", context=32)
    texts = ["a rose is a rose", "is", "a rose"]
    ids = [reader.encode(text) for text in texts]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    places = torch.cat([torch.arange(b * longest, b * longest + len(row) - 1) for b, row in enumerate(ids)])
    nats, likeliest = reader.predict(padded, torch.tensor([len(row) for row in ids]), places)
    expected_nats, expected_likeliest = [], []
    for row in ids:
        is_start = torch.zeros(1, len(row), dtype=torch.bool)
        is_start[0, 0] = True
        with torch.no_grad():
            logs = model.log_probabilities(torch.tensor([row]), is_start)[0, :-1]
        expected_nats.append(-logs.gather(1, torch.tensor(row[1:])[:, None]).squeeze(1))
        expected_likeliest.append(logs.argmax(1))
    torch.testing.assert_close(nats, torch.cat(expected_nats))
    assert torch.equal(likeliest, torch.cat(expected_likeliest))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_answers_as_a_processor_does() -> None:
    model, tokenizer = toy_model(), ByteTokenizer()
    items = ITEMS["multiple_choice"]
    cpu = ModelReader(model, tokenizer, name="toy", digest="0", context=64)
    slow = [answer for some in answers(cpu, CHOICE, items, range(len(items))) for answer in some]
    model = toy_model().cuda()
    model.compute_dtype = torch.bfloat16
    gpu = ModelReader(model, tokenizer, name="toy", digest="0", context=64)
    fast = [answer for some in answers(gpu, CHOICE, items, range(len(items))) for answer in some]
    for one, other in zip(slow, fast, strict=True):
        assert one.nats == pytest.approx(other.nats, abs=0.05)
