"""Every byte of an artifact by part, and the two sizes that are always reported together."""

from dataclasses import dataclass

HEADER, TOKENIZER, SCALES, CORRECTIONS, PASS_THROUGH, CHECKSUM = (
    "header",
    "tokenizer",
    "scales",
    "corrections",
    "pass-through",
    "checksum",
)


@dataclass(frozen=True, slots=True)
class Account:
    """(part, bytes) in the order of the file; matrices stand under their role, float or not.

    The parts add up to the file: `total_bytes` is its size on disk.
    """

    parts: tuple[tuple[str, int], ...]

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return sum(size for _, size in self.parts)

    @property
    def tokenizer_bytes(self) -> int:
        """Size of the tokenizer in the file."""
        return sum(size for part, size in self.parts if part == TOKENIZER)

    def challenge_bytes(self, source_bytes: int) -> int:
        """The size as the 16 MB challenge counts it: the file without its tokenizer, and the source code.

        `source_bytes` is the script that ships with it (see `artifact.source`).
        """
        return self.total_bytes - self.tokenizer_bytes + source_bytes
