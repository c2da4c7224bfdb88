"""Whether documents that are scored were trained on, by what a prepared folder keeps of its training text.

Exact copies are found by the hash of the whole document. Near copies (words changed, cut, set into a longer
document) share word 13-grams. The folder's sketch holds every training 13-gram whose hash lies in one fixed
sixty-fourth of the hash space, so of a document's 13-grams those in the same sixty-fourth are looked up and
nothing else is.

With m of a document's distinct 13-grams looked up and k found, its share is estimated as k / m, with a
standard error of sqrt(s (1 - s) / m) for a true share s; a document of n 13-grams has m ≈ n / 64. A few
shared 13-grams are no sin (formulas, quotations, boilerplate), and a share of the threshold exactly is
exceeded by chance half of the time. A document is therefore reported only if k is so large that a document
of no more than the threshold would reach it with a probability of at most 1 % (the upper tail of the
binomial distribution, which bounds that of drawing without replacement). At a threshold of 0.1 this takes 3
of 5, 4 of 9 or 13 of 64: verbatim text is always found, half a document in three of four cases at m = 9.

Fewer than MIN_GRAMS looked up, about 330 words, prove nothing about one document. Such documents are
counted, and judged by the same rule as one pool: if many are near copies, the pool shows it.

What cannot be seen: paraphrase and translation; text without spaces, which has few words; and training text
that the folder's maker left out of it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bytegolf.errors import ShardError
from bytegolf.text.documents import Document
from bytegolf.text.ngrams import MIN_GRAMS, SKETCH_LIMIT, SKETCH_RATE, Hashes, are_among, distinct_sketch
from bytegolf.tokens.manifest import HASH_BYTES, HASHES, MANIFEST, SKETCH, check_file, read_manifest
from bytegolf.tokens.shards import document_hash

_CHANCE = 0.01
_LISTED = 20
_CHUNK_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class NearCopy:
    """A document of whose looked-up 13-grams training has a large share."""

    id: str
    shared: int
    looked_up: int

    @property
    def share(self) -> float:
        """Estimated share of the document's 13-grams that are in training."""
        return self.shared / self.looked_up

    @property
    def standard_error(self) -> float:
        """Of `share`."""
        return math.sqrt(self.share * (1 - self.share) / self.looked_up)


@dataclass(frozen=True, slots=True)
class Cleanliness:
    """What was found of some documents in a training text.

    exact, near: the first 20 documents, in their order; the counts are of all. A document equal to one
    trained on is not looked at further. checked_ngrams and shared_ngrams: distinct sketched 13-grams of each
    document, summed, and those of them in training; exact copies are left out. short_*: the part of these of
    documents with fewer than MIN_GRAMS, which are judged together only.
    """

    documents: int
    threshold: float
    exact: tuple[str, ...]
    exact_count: int
    near: tuple[NearCopy, ...]
    near_count: int
    checked_ngrams: int
    shared_ngrams: int
    short_documents: int
    short_ngrams: int
    short_shared_ngrams: int
    sketch_rate: int = SKETCH_RATE

    @property
    def short_are_near(self) -> bool:
        """Whether the short documents, as one pool, share more than the threshold with training."""
        return exceeds(self.short_shared_ngrams, self.short_ngrams, self.threshold)

    @property
    def clean(self) -> bool:
        """Nothing was found: no exact copy, no near copy, no pool of short ones.

        It says little about near copies among the `short_documents`; report their number beside it.
        """
        return not (self.exact_count or self.near_count or self.short_are_near)


def check_split(folder: Path, documents: Iterable[Document], *, threshold: float = 0.1) -> Cleanliness | None:
    """Looks for `documents` in the training text of the prepared `folder`.

    Only its manifest, training hashes and sketch are needed. None if one of them is absent, or the folder was
    prepared before sketches were kept: nothing was checked then. Raises `ShardError` if one is damaged.
    """
    assert 0 < threshold < 1
    if not all((folder / name).is_file() for name in (MANIFEST, HASHES["training"], SKETCH)):
        return None
    files = read_manifest(folder)["files"]
    if SKETCH not in files:
        return None
    for name in (HASHES["training"], SKETCH):
        check_file(folder / name, files[name])
    hashes, sketch = _read_training_hashes(folder), _read_sketch(folder)
    exact: list[str] = []
    near: list[NearCopy] = []
    count, checked, found, short = 0, np.zeros(2, np.int64), np.zeros(2, np.int64), 0
    for chunk in _chunks(documents):
        count += len(chunk)
        copied = [document_hash(document) in hashes for document in chunk]
        exact += [document.id for document, copy in zip(chunk, copied, strict=True) if copy]
        chunk = [document for document, copy in zip(chunk, copied, strict=True) if not copy]
        looked_up, shared = _look_up(chunk, sketch)
        for document, m, k in zip(chunk, looked_up.tolist(), shared.tolist(), strict=True):
            is_short = m < MIN_GRAMS
            short += is_short
            checked += (m, m * is_short)
            found += (k, k * is_short)
            if not is_short and exceeds(k, m, threshold):
                near.append(NearCopy(document.id, k, m))
    return Cleanliness(
        documents=count,
        threshold=threshold,
        exact=tuple(exact[:_LISTED]),
        exact_count=len(exact),
        near=tuple(near[:_LISTED]),
        near_count=len(near),
        checked_ngrams=int(checked[0]),
        shared_ngrams=int(found[0]),
        short_documents=short,
        short_ngrams=int(checked[1]),
        short_shared_ngrams=int(found[1]),
    )


def exceeds(shared: int, looked_up: int, threshold: float) -> bool:
    """Whether `shared` of at least MIN_GRAMS `looked_up` are too many for a true share of `threshold`.

    P(X ≥ shared) ≤ 1 % for X ~ Binomial(looked_up, threshold).
    """
    if looked_up < MIN_GRAMS or shared <= threshold * looked_up:
        return False
    # Terms fall from here on, each by at least the ratio of the first two.
    logarithm = (
        math.lgamma(looked_up + 1)
        - math.lgamma(shared + 1)
        - math.lgamma(looked_up - shared + 1)
        + shared * math.log(threshold)
        + (looked_up - shared) * math.log1p(-threshold)
    )
    term = tail = math.exp(logarithm)
    for k in range(shared, looked_up):
        term *= (looked_up - k) / (k + 1) * threshold / (1 - threshold)
        tail += term
        if term < tail * 1e-12:
            break
    return tail <= _CHANCE


def _look_up(documents: list[Document], sketch: Hashes) -> tuple[np.ndarray, np.ndarray]:
    """int64 (documents,) each: distinct 13-grams of the sketched part, and those of them in `sketch`."""
    grams, owners = distinct_sketch(documents)
    looked_up = np.bincount(owners, minlength=len(documents))
    return looked_up, np.bincount(owners[are_among(grams, sketch)], minlength=len(documents))


def _read_training_hashes(folder: Path) -> set[bytes]:
    path = folder / HASHES["training"]
    data = path.read_bytes()
    if len(data) % HASH_BYTES:
        raise ShardError(f"{path} is no list of hashes; delete {folder} and prepare again")
    return {data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)}


def _read_sketch(folder: Path) -> Hashes:
    path = folder / SKETCH
    data = path.read_bytes()
    sketch = np.frombuffer(data[: len(data) // 8 * 8], dtype="<u8").astype(np.uint64, copy=False)
    ascending = bool((sketch[1:] > sketch[:-1]).all())
    if len(data) % 8 or not ascending or (len(sketch) and int(sketch[-1]) >= SKETCH_LIMIT):
        raise ShardError(f"{path} is no sketch of 13-grams; delete {folder} and prepare again")
    return sketch


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.text)
        if characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
