"""What a lossy SentencePiece model does to its text before it looks for pieces.

A `.model` file carries its rule as a 240 kB compiled automaton. A table instead names the rule and lists how
the model's version of it differs from the one in the installed library (Unicode gains characters every
year), which takes a few hundred bytes, and nothing compiled is ever loaded from a file.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import sentencepiece

from bytegolf.errors import TokenizerError
from bytegolf.tokens.protobuf import bytes_field, read_fields, varint_field

RULES = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")
_NAME, _AUTOMATON, _DUMMY_PREFIX, _COLLAPSE, _ESCAPE = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Normalizer:
    """A rule by name and its differences from the installed library's rule of that name.

    `rule` "identity" means none. `changed` maps a string to its replacement, `removed` lists strings the
    model's rule leaves alone. `sha256` is that of the complete mapping, so that another library version
    cannot change it unnoticed; `library` is the version that the differences are from ("" in older tables).
    """

    rule: str = "identity"
    changed: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    sha256: str = ""
    library: str = ""
    dummy_prefix: bool = False
    collapse_whitespace: bool = False

    def __post_init__(self) -> None:
        # The library opens a file of this name, so it must not come from a table unchecked.
        if self.rule not in ("identity", *RULES):
            raise TokenizerError(
                f"the normalization rule {self.rule!r} is unknown; known: {', '.join(RULES)}"
            )

    @property
    def exact(self) -> bool:
        """Whether the text passes through unchanged."""
        return self.rule == "identity" and not self.dummy_prefix and not self.collapse_whitespace

    def message(self) -> bytes:
        """The NormalizerSpec message of a model file."""
        return (
            bytes_field(_NAME, self.rule.encode())
            + bytes_field(_AUTOMATON, b"" if self.rule == "identity" else self._automaton())
            + varint_field(_DUMMY_PREFIX, self.dummy_prefix)
            + varint_field(_COLLAPSE, self.collapse_whitespace)
        )

    def _automaton(self) -> bytes:
        mapping = _builtin_mapping(self.rule) | dict(self.changed)
        for key in self.removed:
            mapping.pop(key, None)
        if _mapping_digest(mapping) != self.sha256:
            saved = f"sentencepiece {self.library!r}" if self.library else "another sentencepiece"
            remedy = "that version" if self.library else "the version of the machine that saved it"
            raise TokenizerError(
                f"this tokenizer was saved with {saved}; the installed {sentencepiece.__version__} has "
                f"another {self.rule} rule; install {remedy}"
            )
        compiled = sentencepiece.SentencePieceNormalizer(norm_map=list(mapping.items()))
        fields = dict(read_fields(compiled.serialized_normalizer_spec()))
        automaton = fields[_AUTOMATON]
        assert isinstance(automaton, bytes)
        return automaton


def read_normalizer(message: bytes, model: bytes, source: str) -> Normalizer:
    """The normalizer of a model file from its NormalizerSpec message; `model` is the whole file."""
    fields: dict[int, Any] = dict(read_fields(message))
    if not fields.get(_ESCAPE, 1):
        raise TokenizerError(
            f"{source}: the model does not escape whitespace; train it with escape_whitespaces=True"
        )
    flags = {
        "dummy_prefix": bool(fields.get(_DUMMY_PREFIX, 1)),
        "collapse_whitespace": bool(fields.get(_COLLAPSE, 1)),
    }
    if not fields.get(_AUTOMATON):
        return Normalizer(**flags)
    rule = fields.get(_NAME, b"").decode("utf-8", "replace")
    if rule not in RULES:
        raise TokenizerError(
            f"{source}: the normalization rule {rule!r} is unknown; known: {', '.join(RULES)}"
        )
    mapping = dict(sentencepiece.SentencePieceNormalizer(model_proto=model).decompile())
    builtin = _builtin_mapping(rule)
    return Normalizer(
        rule=rule,
        changed=tuple(sorted(item for item in mapping.items() if builtin.get(item[0]) != item[1])),
        removed=tuple(sorted(builtin.keys() - mapping.keys())),
        sha256=_mapping_digest(mapping),
        library=sentencepiece.__version__,
        **flags,
    )


@functools.cache
def _builtin_pairs(rule: str) -> tuple[tuple[str, str], ...]:
    return tuple(sentencepiece.SentencePieceNormalizer(rule_name=rule).decompile())


def _builtin_mapping(rule: str) -> dict[str, str]:
    return dict(_builtin_pairs(rule))


def _mapping_digest(mapping: dict[str, str]) -> str:
    joined = "\0".join(f"{key}\0{value}" for key, value in sorted(mapping.items()))
    return hashlib.sha256(joined.encode()).hexdigest()
