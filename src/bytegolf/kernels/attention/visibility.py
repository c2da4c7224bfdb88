"""Which keys a query may see."""

from torch import Tensor


def allowed_keys(
    document_BT: Tensor,
    key_document_BS: Tensor,
    positions_T: Tensor,
    key_positions_S: Tensor,
    window: int | None,
) -> Tensor:
    """(B, T, S) bool: same document, not later, and with a window w at most w tokens before."""
    distance_TS = positions_T[:, None] - key_positions_S[None, :]
    near_TS = distance_TS >= 0
    if window is not None:
        near_TS = near_TS & (distance_TS <= window)
    return near_TS[None] & (document_BT[:, :, None] == key_document_BS[:, None, :])
