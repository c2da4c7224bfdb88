"""Splits: near duplicates stay together, sizes come out, everything is in exactly one side."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import RecipeError, TextError
from bytegolf.text import near_duplicates, ngrams
from bytegolf.text.documents import Document
from bytegolf.text.near_duplicates import cluster
from bytegolf.text.readers import read_documents
from bytegolf.text.spec import Text, load_text
from bytegolf.text.split import split_documents


def words(seed: int, count: int) -> str:
    return " ".join(f"w{n}" for n in np.random.default_rng(seed).integers(0, 50_000, count))


def overlap(first: str, second: str) -> float:
    """The definition, by sets of tuples of words."""
    sets = []
    for text in (first, second):
        # Bytes beyond ASCII are letters here; only they stay behind lower().
        found = re.findall(r"[a-z0-9\x80-\uffff]+", text.encode().decode("latin-1").lower())
        size = min(13, len(found))
        sets.append({tuple(found[i : i + size]) for i in range(len(found) - size + 1) if size})
    smaller = min(map(len, sets))
    return len(sets[0] & sets[1]) / smaller if smaller else float(first == second)


# Texts assembled from a few passages share all kinds of parts.
passages = st.lists(st.integers(0, 12), min_size=1, max_size=5).map(
    lambda seeds: "\n".join(words(seed, 5 + 7 * seed) for seed in seeds)
)
document_lists = st.lists(passages, min_size=2, max_size=8).map(
    lambda found: [Document(text, str(i)) for i, text in enumerate(found)]
)


@settings(max_examples=100, deadline=None)
@given(documents=document_lists, threshold=st.sampled_from([0.05, 0.1, 0.5, 1.0]))
def test_clusters_are_the_components_of_the_definition(documents, threshold):
    numbers = list(range(len(documents)))
    for i in range(len(documents)):
        for j in range(i):
            if overlap(documents[i].text, documents[j].text) >= threshold:
                numbers = [numbers[j] if n == numbers[i] else n for n in numbers]
    expected = np.unique(numbers, return_inverse=True)[1]
    found = cluster(documents, threshold)
    assert len({*zip(expected, found, strict=True)}) == len({*expected}) == len({*found})


@settings(max_examples=60, deadline=None)
@given(documents=document_lists, held_out=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_every_document_is_on_one_side_and_no_cluster_on_both(documents, held_out, seed):
    clusters = cluster(documents, 0.1)
    if clusters.max() == 0:
        with pytest.raises(TextError, match="cannot be split"):
            split_documents(documents, held_out=held_out, seed=seed)
        return
    split = split_documents(documents, held_out=held_out, seed=seed)
    assert Counter(d.id for d in split.training + split.validation) == Counter(d.id for d in documents)
    assert split.training
    assert split.validation
    sides = [{clusters[int(d.id)] for d in side} for side in (split.training, split.validation)]
    assert not sides[0] & sides[1]
    assert split.clusters == clusters.max() + 1
    assert split == split_documents(documents, held_out=held_out, seed=seed)


def test_the_share_held_out_is_close_to_the_one_asked_for():
    documents = [Document(words(i, 50 + i % 200), str(i)) for i in range(400)]
    for share in (0.05, 0.3, 0.8):
        split = split_documents(documents, held_out=share, seed=1)
        held_out = sum(len(d.text) for d in split.validation)
        assert held_out / sum(len(d.text) for d in documents) == pytest.approx(share, abs=0.002)


def test_seeds_hold_out_different_documents_and_order_is_kept():
    documents = [Document(words(i, 50), str(i)) for i in range(100)]
    splits = [split_documents(documents, held_out=0.2, seed=seed) for seed in range(3)]
    assert len({tuple(d.id for d in split.validation) for split in splits}) == 3
    for split in splits:
        assert [int(d.id) for d in split.validation] == sorted(int(d.id) for d in split.validation)


def test_equal_short_documents_stay_together():
    documents = [
        Document("?!", "a"),
        Document("?!", "b"),
        Document("one two", "c"),
        Document("One, two!", "d"),
    ]
    assert cluster(documents, 0.1).tolist() == [0, 0, 1, 1]


def test_a_passage_copied_by_more_documents_than_are_compared_chains_them_all():
    licence = words(0, 60)
    documents = [Document(f"{licence} {words(i + 1, 100)}", str(i)) for i in range(200)]
    assert cluster(documents, 0.1).max() == 0


def test_a_sample_of_the_hashes_finds_the_same_clusters(monkeypatch):
    documents = [Document(words(i // 2, 600), str(i)) for i in range(60)]
    expected = cluster(documents, 0.1)
    monkeypatch.setattr(near_duplicates, "MAX_GRAMS", 3000)
    monkeypatch.setattr(ngrams, "_CHUNK_BYTES", 10_000)
    np.testing.assert_array_equal(cluster(documents, 0.1), expected)
    assert expected.max() == 29


def test_parallel_chapters_of_the_bible_stay_together():
    documents = list(read_documents(["kjv"]))
    clusters = dict(zip([d.id for d in documents], cluster(documents, 0.1).tolist(), strict=True))
    assert clusters["2 Kings 19"] == clusters["Isaiah 37"]
    assert clusters["Psalms 18"] == clusters["2 Samuel 22"]
    assert clusters["Genesis 1"] != clusters["Genesis 2"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "the text is empty"),
        (["only one"], "one document .*; cut it with cut_bytes"),
        ([words(1, 40), words(1, 40) + " more"], "all 2 documents are near duplicates"),
    ],
)
def test_text_that_cannot_be_split_says_what_to_do(texts, message):
    documents = [Document(text, str(i)) for i, text in enumerate(texts)]
    with pytest.raises(TextError, match=message):
        split_documents(documents, held_out=0.1, seed=0)


def test_given_validation_text_is_taken_whole_and_leaves_training(tmp_path):
    for name, text in (("a.txt", "a"), ("b.txt", "b"), ("v.txt", "b")):
        (tmp_path / name).write_text(text)
    spec = Text((str(tmp_path / "[ab].txt"),), validation=(str(tmp_path / "v.txt"),))
    split = load_text(spec)
    assert [d.text for d in split.training] == ["a"]
    assert [d.text for d in split.validation] == ["b"]
    assert (split.dropped, split.clusters) == (1, 2)


def test_one_file_is_cut_and_split(tmp_path):
    (tmp_path / "book.txt").write_text("\n\n".join(words(i, 80) for i in range(60)))
    split = load_text(Text((str(tmp_path / "book.txt"),), cut_bytes=1000))
    assert 0.05 < len(split.validation) / (len(split.training) + len(split.validation)) < 0.12


@pytest.mark.parametrize("validation", [(), ("v",)])
def test_empty_files_are_refused_by_name(tmp_path, validation):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "full.txt").write_text("full")
    sources = (str(tmp_path / ("full.txt" if validation else "empty.txt")),)
    with pytest.raises(TextError, match=r"empty\.txt is empty"):
        load_text(Text(sources, validation=(str(tmp_path / "empty.txt"),) if validation else ()))


def test_training_text_that_is_all_held_out_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(TextError, match="every training document"):
        load_text(Text((str(tmp_path / "a.txt"),), validation=(str(tmp_path / "a.txt"),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "sources is"),
        ({"sources": ("",)}, "sources is"),
        ({"validation": ("",)}, "validation is"),
        ({"field": ""}, "field is empty"),
        ({"cut_bytes": -1}, "cut_bytes is -1"),
        ({"held_out": 0.0}, "held_out is 0.0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"held_out": float("nan")}, "held_out is nan"),
        ({"near_duplicate": 0.0}, "near_duplicate is 0.0"),
        ({"near_duplicate": 1.5}, "near_duplicate is 1.5"),
        ({"split_seed": -1}, "split_seed is -1"),
    ],
)
def test_specs_refuse_what_cannot_work(changes, message):
    with pytest.raises(RecipeError, match=message):
        Text(**{"sources": ("kjv",), **changes})
