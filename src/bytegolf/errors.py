"""Errors that a user can put right: one line that names the value and the remedy.

The command line prints them as they are and exits with code 2; every other exception is a bug of ours.
"""


class BytegolfError(ValueError):
    """Base of all errors that a user can put right."""


class TextError(BytegolfError):
    """Documents could not be read or split."""


class TokenizerError(BytegolfError):
    """A tokenizer could not be trained, loaded, or does not fit its model."""


class ShardError(BytegolfError):
    """Prepared tokens are damaged or belong to other text or another tokenizer."""


class RecipeError(BytegolfError):
    """A recipe names something that does not exist or cannot work."""


class BudgetError(BytegolfError):
    """A budget of seconds, tokens, steps or bytes cannot be met."""


class CheckpointError(BytegolfError):
    """A checkpoint is missing, damaged, or of another recipe."""


class ArtifactError(BytegolfError):
    """An artifact file is truncated, damaged, hostile, or of an unknown version."""


class LegalityError(BytegolfError):
    """An evaluation breaks a rule of scoring: order, once each, score before learning, or normalization."""


class PackedError(BytegolfError):
    """A packed file is truncated, damaged, of another artifact, or cannot be restored on this machine."""


class DivergedError(BytegolfError):
    """Training produced a loss that is not a number, or far above its start."""


class PackageError(BytegolfError):
    """An optional package is installed, but cannot be used as it is."""
