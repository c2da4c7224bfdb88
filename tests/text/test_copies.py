"""Training documents that repeat a validation document leave; those that share what all share stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import TextError
from bytegolf.text.copies import copies
from bytegolf.text.documents import Document
from bytegolf.text.spec import Text, load_text


def words(seed: int, count: int) -> str:
    return " ".join(f"w{n}" for n in np.random.default_rng(seed).integers(0, 10**6, count))


def documents(*texts: str) -> list[Document]:
    return [Document(text, str(index)) for index, text in enumerate(texts)]


HELD = words(0, 2000)


def test_who_repeats_most_of_it_leaves_until_little_is_repeated() -> None:
    half, tenth = " ".join(HELD.split()[:1000]), " ".join(HELD.split()[-60:])
    training = documents(words(1, 2000), f"{words(2, 50)} {half}", HELD + " more", words(3, 900) + tenth)
    assert copies(training, documents(words(9, 800), HELD), 0.1) == {1, 2}
    assert copies(training, documents(words(9, 800), HELD), 0.7) == {2}
    assert copies(training, documents(words(9, 800)), 0.1) == set()
    assert copies([], documents(HELD), 0.1) == copies(training, [], 0.1) == set()


def test_two_that_repeat_a_part_each_leave_only_as_long_as_both_are_too_much() -> None:
    parts = HELD.split()
    training = documents(words(1, 300) + " ".join(parts[:500]), words(2, 300) + " ".join(parts[500:1400]))
    assert copies(training, documents(HELD), 0.4) == {1}
    assert copies(training, documents(HELD), 0.1) == {0, 1}


def test_what_many_documents_have_in_common_is_no_copy() -> None:
    licence = words(7, 2000)
    training = documents(*(f"{licence} {words(seed, 50)}" for seed in range(100, 130)))
    assert copies(training, documents(f"{licence} {words(8, 500)}"), 0.1) == set()
    assert len(copies(training[:5], documents(f"{licence} {words(8, 500)}"), 0.1)) == 5


def test_short_documents_prove_nothing() -> None:
    short = words(3, 60)
    assert copies(documents(short + " more"), documents(short), 0.1) == set()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), share=st.sampled_from([0.05, 0.1, 0.3, 0.8]))
def test_nothing_that_remains_repeats_more_than_the_share(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    held = [words(seed * 10 + k, int(random.integers(20, 1500))).split() for k in range(3)]
    training = []
    for index in range(8):
        text = words(index + 10**5 * (seed + 1), 200).split()
        for source in held:
            if random.random() < 0.4:
                begin = int(random.integers(len(source)))
                text += source[begin : begin + int(random.integers(0, 900))]
        training.append(" ".join(text))
    given_documents = documents(*(" ".join(source) for source in held))
    gone = copies(documents(*training), given_documents, share)
    kept = [text for index, text in enumerate(training) if index not in gone]
    assert copies(documents(*kept), given_documents, share) == set()


def test_given_validation_text_takes_its_near_copies_out_of_training(tmp_path) -> None:
    for name, text in (("a.txt", words(1, 700)), ("b.txt", HELD + " and more"), ("v.txt", HELD)):
        (tmp_path / name).write_text(text)
    spec = Text((str(tmp_path / "[ab].txt"),), validation=(str(tmp_path / "v.txt"),))
    split = load_text(spec)
    assert [document.text for document in split.training] == [words(1, 700)]
    assert split.dropped == 1
    (tmp_path / "a.txt").write_text(HELD + " too")
    with pytest.raises(TextError, match="raise near_duplicate"):
        load_text(spec)
