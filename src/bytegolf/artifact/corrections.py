"""Low-rank corrections as streams of an artifact: integers of A, integers of B, scales of both."""

from typing import cast

import numpy as np
import torch
from torch import Tensor

from bytegolf.artifact import coding
from bytegolf.artifact.header import Factors
from bytegolf.compression.low_rank import LowRank
from bytegolf.errors import ArtifactError


def factors_of(correction: LowRank) -> Factors:
    """What the header says of a correction."""
    return Factors(correction.rank, correction.a_bits, correction.b_bits, correction.group)


def encode_correction(correction: LowRank) -> list[bytes]:
    """The three streams. Raises `ArtifactError` for integers beyond their bits and scales that are not above
    zero.
    """
    a_RK, b_KC, scales = correction_arrays(correction)
    for ints, bits in ((a_RK, correction.a_bits), (b_KC, correction.b_bits)):
        _check(ints, bits)
    if not (np.isfinite(scales) & (scales > 0)).all():
        raise ArtifactError("a scale of a correction is not a positive number")
    return [
        coding.encode_ints(a_RK, _limit(correction.a_bits)),
        coding.encode_ints(b_KC, _limit(correction.b_bits)),
        coding.encode_scales(scales),
    ]


def decode_correction(streams: list[bytes], factors: Factors, shape: tuple[int, int]) -> LowRank:
    """The correction of a matrix (R, C). Raises `ArtifactError` if the streams are not those of one."""
    rows, columns = shape
    a_RK = coding.decode_ints(streams[0], (rows, factors.rank), _limit(factors.a_bits))
    b_KC = coding.decode_ints(streams[1], (factors.rank, columns), _limit(factors.b_bits))
    _check(a_RK, factors.a_bits)
    _check(b_KC, factors.b_bits)
    scales = torch.from_numpy(coding.decode_scales(streams[2], (factors.scales(columns),)))
    a, b = torch.from_numpy(a_RK.copy()), torch.from_numpy(b_KC.copy())
    return LowRank(a, b, scales[:1], scales[1:], factors.a_bits, factors.b_bits, factors.group)


def correction_arrays(correction: LowRank) -> tuple[coding.Int8s, coding.Int8s, np.ndarray]:
    """A's integers, B's, and the scale of A before those of B (float16)."""
    scales = torch.cat([correction.a_scale, correction.b_scales_G])
    a_RK, b_KC = (cast(coding.Int8s, _array(ints)) for ints in (correction.a_RK, correction.b_KC))
    return a_RK, b_KC, _array(scales)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _limit(bits: int) -> int:
    # The coder's integers reach as far on both sides.
    return 2 ** (bits - 1)


def _check(ints: coding.Int8s, bits: int) -> None:
    half = 2 ** (bits - 1)
    if int(ints.max()) >= half or int(ints.min()) < -half:
        raise ArtifactError(f"integers of a correction beyond the {-half} to {half - 1} of {bits} bits")
