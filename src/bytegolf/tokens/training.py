"""Training a lossless SentencePiece BPE tokenizer."""

import io
import re
from collections.abc import Iterable

import numpy as np
import sentencepiece

from bytegolf.errors import TokenizerError
from bytegolf.text.casing import MARKERS, Casing, lossless_caps
from bytegolf.text.documents import Document
from bytegolf.tokens.normalization import Normalizer
from bytegolf.tokens.protobuf import read_fields
from bytegolf.tokens.sentence_pieces import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Pieces,
    SentencePieceTokenizer,
)

MIN_VOCABULARY = 272
MAX_VOCABULARY = 65_536
# Share of the text's characters beyond which rare ones are left to byte pieces.
_COVERAGE = 0.9995
# The trainer keeps these for itself, or refuses them in pieces.
_RESERVED = "\0\t\u2581\u2585\u2047"


def train_sentencepiece(
    documents: Iterable[Document],
    vocabulary: int,
    *,
    casing: Casing = False,
    sample_bytes: int = 8_000_000,
    threads: int = 1,
) -> SentencePieceTokenizer:
    """A tokenizer of exactly `vocabulary` ids for texts like `documents`; deterministic.

    The ids are: 0 unknown (never produced), 1 bos, 2..257 the bytes, then the merges in order. ASCII
    characters have no piece beside their byte, which leaves their ids to merges; a space is the exception,
    because SentencePiece writes it as U+2581. At most about `sample_bytes` of text, drawn evenly from all
    documents, are looked at. With `casing` the ids 258..261 are the markers of capitals, and merges are
    learned from text with capitals marked in that form (`text.casing`).
    """
    if not MIN_VOCABULARY <= vocabulary <= MAX_VOCABULARY:
        raise TokenizerError(f"vocabulary is {vocabulary}; choose {MIN_VOCABULARY} to {MAX_VOCABULARY}")
    markers = MARKERS if casing else ""
    sample = _sample([document.text for document in documents], sample_bytes)
    texts = [lossless_caps(text, casing) for text in sample]
    # What lies outside the alphabet cuts sentences; so markers, which never merge, are left out of it.
    alphabet = _alphabet(texts, _RESERVED + markers, most=(vocabulary - 259) // 2)
    ascii_pieces = sum(character.isascii() for character in alphabet if character != " ")
    if not alphabet:
        raise TokenizerError(
            "the text holds no characters to train a tokenizer on; give more text or use 'bytes'"
        )
    names = _train(_sentences(texts, alphabet), vocabulary + ascii_pieces, threads)
    merges = [name for name in names if not (len(name) == 1 and name.isascii())]
    if SPACE not in merges:
        merges.append(SPACE)
    first = 258 + len(markers)
    if len(merges) < vocabulary - first:
        raise TokenizerError(
            f"the text yields only {first + len(merges)} pieces, not {vocabulary}; "
            "choose a smaller vocabulary or give more text"
        )
    kept = merges[: vocabulary - first]
    if SPACE not in kept:
        kept[-1] = SPACE
    names = ("<unk>", "<s>", *[""] * 256, *markers, *kept)
    kinds = (UNKNOWN, CONTROL, *[BYTE] * 256, *[USER_DEFINED] * len(markers), *[NORMAL] * len(kept))
    return SentencePieceTokenizer(Pieces(names, bytes(kinds), bos=1, normalizer=Normalizer(), casing=casing))


def _train(sentences: list[str], size: int, threads: int) -> list[str]:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            byte_fallback=True,
            character_coverage=1.0,
            max_sentence_length=1 << 30,
            unk_id=0,
            bos_id=1,
            eos_id=-1,
            pad_id=-1,
            num_threads=threads,
            minloglevel=3,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TokenizerError(
            f"SentencePiece could not train {size} pieces: {reason}; give more text"
        ) from error
    names = []
    for number, message in read_fields(model.getvalue()):
        if number == 1:
            assert isinstance(message, bytes)
            piece = dict(read_fields(message))
            if piece.get(3, NORMAL) == NORMAL:
                name = piece[1]
                assert isinstance(name, bytes)
                names.append(name.decode())
    return names


def _sample(texts: list[str], limit: int) -> list[str]:
    sizes = [len(text.encode("utf-8", "replace")) for text in texts]
    if sum(sizes) <= limit:
        return texts
    # Drawn documents, not the first ones: sources often stand one behind another.
    sample, room = [], limit
    for index in np.random.default_rng(0).permutation(len(texts)):
        sample.append(texts[index][:room])
        room -= sizes[index]
        if room <= 0:
            break
    return sample


def _alphabet(texts: list[str], reserved: str, most: int) -> set[str]:
    """All ASCII characters of the texts, and of the others the most frequent ones, at most `most`.

    Those in `reserved` are left out.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "replace"), dtype=np.uint32)
    counts = np.bincount(codes, minlength=0x110000)
    counts[[ord(character) for character in reserved]] = 0
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    covered = np.cumsum(counts[order])
    enough = int(np.searchsorted(covered, _COVERAGE * covered[-1])) + 1 if len(order) else 0
    frequent = [chr(code) for code in order[:enough] if code >= 128]
    return {chr(code) for code in order if code < 128} | set(frequent[:most])


def _sentences(texts: list[str], alphabet: set[str]) -> list[str]:
    outside = re.compile("[^" + re.escape("".join(sorted(alphabet))) + "]+")
    return [sentence for text in texts for sentence in outside.split(text) if sentence]
