"""How the fused kernels' work is shared out in tiles."""

from hypothesis import given
from hypothesis import strategies as st

from bytegolf.kernels.fused import even_shares


@given(length=st.integers(1, 10**6), tile=st.sampled_from([16, 64, 128]), most=st.integers(1, 10**5))
def test_shares_cover_the_length_and_none_is_empty_or_much_smaller(length: int, tile: int, most: int) -> None:
    shares, each = even_shares(length, tile, most)
    tiles = -(-length // tile)
    assert (shares - 1) * each < tiles <= shares * each
    assert each * tile <= max(most, tile) + tile - 1
    # At most one tile of each other share is missing in the last.
    assert tiles - (shares - 1) * each > each - shares


def test_no_tile_lies_behind_a_small_vocabulary() -> None:
    assert even_shares(1024, 128, 2048) == (1, 8)
    assert even_shares(2304, 128, 2048) == (2, 9)
    assert even_shares(8192, 128, 2048) == (4, 16)
    assert even_shares(5, 128, 2048) == (1, 1)
