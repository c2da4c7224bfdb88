"""Cross-entropy of soft-capped logits."""

from bytegolf.kernels.capped_loss.reference import capped_cross_entropy, soft_cap

__all__ = ["capped_cross_entropy", "soft_cap"]
