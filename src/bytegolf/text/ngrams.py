"""Hashes of word 13-grams, by which near duplicates are found in a corpus and between splits.

A word is a run of ASCII letters and digits (case ignored) and non-ASCII bytes. Words and 13-grams are hashed
to 64 bits by polynomials over a block of text at once. A text without spaces is one word: of such text
(Chinese, say) only whole lines can be recognized.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from bytegolf.text.documents import Document

Hashes = npt.NDArray[np.uint64]
Owners = npt.NDArray[np.int64]

GRAM_WORDS = 13
#: A sketch keeps the hashes below this: a sixty-fourth of the hash space, the same one everywhere.
SKETCH_RATE = 64
SKETCH_LIMIT = (1 << 64) // SKETCH_RATE
#: Of a document with fewer sketched 13-grams, some 330 words, they prove nothing.
MIN_GRAMS = 5

# Documents handed over at once: enough to drown the cost of a call.
_CHUNK_BYTES = 4_000_000
# Letters, and grams, handled at once: small enough for a processor's cache.
_BLOCK = 1 << 16
_MASK = (1 << 64) - 1
_WORD_BASE = 0x9E3779B97F4A7C15
_GRAM_POWERS = [np.uint64(pow(0xD6E8FEB86659FD93, k, 1 << 64)) for k in range(GRAM_WORDS)]


def gram_hashes(texts: Sequence[bytes]) -> tuple[Hashes, Owners]:
    """Hashes of all 13-grams of some texts, and for each the index of its text.

    A text of fewer words has the one gram of all its words. Repeated grams are returned each time.
    """
    blocks = list(_gram_blocks(texts))
    grams = [grams for grams, _ in blocks]
    owners = [owners for _, owners in blocks]
    return np.concatenate([_NO_HASHES, *grams]), np.concatenate([_NO_OWNERS, *owners])


def sketched_grams(texts: Sequence[bytes]) -> tuple[Hashes, Owners]:
    """Of `gram_hashes`, those below `SKETCH_LIMIT`, without holding all of them at once."""
    grams, owners = [_NO_HASHES], [_NO_OWNERS]
    for block_grams, block_owners in _gram_blocks(texts):
        kept = block_grams < np.uint64(SKETCH_LIMIT)
        grams.append(block_grams[kept])
        owners.append(block_owners[kept])
    return np.concatenate(grams), np.concatenate(owners)


def text_chunks(documents: Sequence[Document]) -> Iterator[tuple[list[bytes], int]]:
    """(texts, number of the first): documents taken together up to a few megabytes."""
    texts: list[bytes] = []
    size = first = 0
    for index, document in enumerate(documents):
        if texts and size + len(document.text) > _CHUNK_BYTES:
            yield texts, first
            texts, size, first = [], 0, index
        texts.append(_text_bytes(document))
        size += len(texts[-1])
    if texts:
        yield texts, first


def distinct_grams(grams: Hashes, owners: Owners) -> tuple[Hashes, Owners]:
    """Each text's repeated 13-grams once, sorted by hash. Of one hash, owners must already be in order."""
    order = np.argsort(grams, kind="stable")
    grams, owners = grams[order], owners[order]
    new = np.ones(len(grams), dtype=bool)
    new[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
    return grams[new], owners[new]


def distinct_sketch(documents: Sequence[Document]) -> tuple[Hashes, Owners]:
    """Of each document the distinct 13-grams below `SKETCH_LIMIT`, sorted by hash."""
    return distinct_grams(*sketched_grams([_text_bytes(document) for document in documents]))


def are_among(grams: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    """Of each hash, whether it is one of `wanted`, which are sorted."""
    if not len(wanted):
        return np.zeros(len(grams), dtype=bool)
    places = np.minimum(np.searchsorted(wanted, grams), len(wanted) - 1)
    return wanted[places] == grams


def _text_bytes(document: Document) -> bytes:
    return document.text.encode("utf-8", "surrogatepass")


_NO_HASHES: Hashes = np.zeros(0, dtype=np.uint64)
_NO_OWNERS: Owners = np.zeros(0, dtype=np.int64)


def _gram_blocks(texts: Sequence[bytes]) -> Iterator[tuple[Hashes, Owners]]:
    # A separator behind every text, so that no word reaches into the next.
    joined = np.frombuffer(b"\0".join([*texts, b""]), dtype=np.uint8)
    ends_of_texts = np.cumsum([len(text) + 1 for text in texts])
    found = [(_NO_HASHES, _NO_OWNERS), *_words(joined)]
    words = np.concatenate([hashes for hashes, _ in found])
    owners = np.concatenate([np.searchsorted(ends_of_texts, ends, side="right") for _, ends in found])
    # Whatever follows the last word belongs to no text.
    padding = np.full(GRAM_WORDS, len(texts), dtype=np.int64)
    for start in range(0, len(words), _BLOCK):
        count = min(_BLOCK, len(words) - start)
        near_words = words[start : start + count + GRAM_WORDS]
        near_owners = np.concatenate([owners[start : start + count + GRAM_WORDS], padding])
        near_words = np.concatenate([near_words, np.zeros(GRAM_WORDS, dtype=np.uint64)])
        owner = near_owners[:count]
        grams = np.zeros(count, dtype=np.uint64)
        for offset, power in enumerate(_GRAM_POWERS):
            same = near_owners[offset : offset + count] == owner
            grams += near_words[offset : offset + count] * power * same
        is_first = owner != np.concatenate([owners[start - 1 : start] if start else [-1], owner[:-1]])
        # A gram is whole, or it is all of a short text.
        is_whole = near_owners[GRAM_WORDS - 1 : GRAM_WORDS - 1 + count] == owner
        kept = is_whole | is_first
        yield _mix(grams[kept]), owner[kept]


def _words(text: npt.NDArray[np.uint8]) -> Iterator[tuple[Hashes, Owners]]:
    """Hashes of the words, Σ letter_j · base^(j - begin) modulo 2^64, and a place inside or behind each.

    Block by block; a word that reaches over a border is carried on. The text must end with a separator.
    """
    open_sum, open_power = 0, 1
    for start in range(0, len(text), _BLOCK):
        letters = _LETTERS[text[start : start + _BLOCK]]
        count = len(letters)
        inside = np.zeros(count + 2, dtype=bool)
        inside[1:-1] = letters != 0
        borders = np.flatnonzero(inside[1:] != inside[:-1])
        begins, ends = borders[::2], borders[1::2]
        sums = np.zeros(count + 1, dtype=np.uint64)
        np.cumsum(letters * _POWERS[:count], out=sums[1:])
        hashes = (sums[ends] - sums[begins]) * _INVERSE_POWERS[begins]
        if open_power != 1:
            if inside[1]:
                hashes[0] = (open_sum + open_power * int(hashes[0])) & _MASK
            else:
                # It ended exactly at the border; its last letter stands in front of this block.
                hashes = np.concatenate([np.array([open_sum], dtype=np.uint64), hashes])
                ends = np.concatenate([[-1], ends])
        if inside[-2]:
            length = count - int(begins[-1])
            whole = length == count
            open_power = ((open_power if whole else 1) * pow(_WORD_BASE, length, 1 << 64)) & _MASK
            open_sum = int(hashes[-1])
            hashes, ends = hashes[:-1], ends[:-1]
        else:
            open_sum, open_power = 0, 1
        yield _mix(hashes), ends + start


def _mix(values: Hashes) -> Hashes:
    # The finalizer of splitmix64: polynomials modulo 2^64 have weak low bits.
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _letters() -> npt.NDArray[np.uint64]:
    """uint64 (256,): 0 for bytes between words, else a number that ignores the case of ASCII letters."""
    table = np.zeros(256, dtype=np.uint64)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            table[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return table


def _powers(base: int) -> Hashes:
    return np.cumprod(np.array([1, *[base] * (_BLOCK - 1)], dtype=np.uint64), dtype=np.uint64)


_LETTERS = _letters()
_POWERS = _powers(_WORD_BASE)
_INVERSE_POWERS = _powers(pow(_WORD_BASE, -1, 1 << 64))
