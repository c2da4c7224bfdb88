"""What the friction kernels compute of one tile of edges: queries by keys.

Sparse kernels give the bits that dense ones give because both compute a tile by these functions: whatever is
added after a product is fused with it by name, so that no compiler chooses.
"""

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]

from bytegolf.kernels.friction.hardware import INTERPRETED, log2

#: What rounding may add to x beside the product: of scale, bias and logarithm.
ROUNDED: tl.constexpr = tl.constexpr(2.0**-12)


@triton.jit
def query_tile(sight, CUT: tl.constexpr):
    """The tile of queries that a program is for: its number, row, head, group and the queries' places.

    Tiles with most keys come first. Then bias and friction of the head.
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    row, head = tl.program_id(1) // sight.heads, tl.program_id(1) % sight.heads
    queries = tile * CUT.queries + tl.arange(0, CUT.queries)
    bias, friction = tl.load(sight.bias + head), tl.load(sight.friction + head)
    return tile, row, head, head // (sight.heads // sight.groups), queries, bias, friction


@triton.jit
def first_keys(sight, row, queries, PACKED: tl.constexpr):
    """The first key that each query sees."""
    if PACKED:
        present = queries < sight.tokens
        first = tl.load(sight.first + row * sight.tokens + queries, mask=present, other=0)
    else:
        first = tl.zeros_like(queries)
    return first


@triton.jit
def keys_in_sight(sight, row, tile, PACKED: tl.constexpr, CUT: tl.constexpr):
    """The tiles of keys that a tile of queries sees: begin, inner, outer, end.

    All of inner to outer is seen by all; of begin to inner and of outer to end something is hidden.
    """
    last = tl.minimum((tile + 1) * CUT.queries, sight.tokens)
    end = tl.cdiv(last, CUT.keys)
    outer = tile * CUT.queries // CUT.keys
    begin, inner = 0, 0
    if PACKED:
        firsts = sight.first + row * sight.tokens
        begin = tl.load(firsts + tile * CUT.queries) // CUT.keys
        inner = tl.cdiv(tl.load(firsts + last - 1), CUT.keys)
    outer = tl.maximum(outer, begin)
    return begin, tl.minimum(inner, outer), outer, end


@triton.jit
def of_both_ends(index, inner, outer):
    """The tile of a running number that passes over those from inner to outer."""
    return index if index < inner else index + (outer - inner)


@triton.jit
def queries_in_sight(sight, last, row, key_tile, PACKED: tl.constexpr, CUT: tl.constexpr):
    """The tiles of queries that see a tile of keys: begin, inner, outer, end, as for `keys_in_sight`."""
    all_tiles = tl.cdiv(sight.tokens, CUT.queries)
    begin = key_tile * CUT.keys // CUT.queries
    inner = tl.minimum(tl.cdiv((key_tile + 1) * CUT.keys, CUT.queries), all_tiles)
    outer, end = all_tiles, all_tiles
    if PACKED:
        lasts = last + row * sight.tokens
        of_first = tl.load(lasts + key_tile * CUT.keys)
        if of_first < sight.tokens:
            outer = of_first // CUT.queries
        of_last = tl.load(lasts + tl.minimum((key_tile + 1) * CUT.keys, sight.tokens) - 1)
        end = tl.cdiv(of_last, CUT.queries)
    return begin, inner, tl.maximum(outer, inner), tl.maximum(end, inner)


@triton.jit
def head_of(x, row, head):
    """Where a head of a row of `launch.Laid` begins."""
    return x.data + row.to(tl.int64) * x.row + head * x.head


@triton.jit
def load_rows(data, rows, stride, tokens, CUT: tl.constexpr):
    """data[rows], (rows, block): zero after the last of `tokens` and after the last column."""
    columns = tl.arange(0, CUT.block)
    present = (rows < tokens)[:, None] & (columns < CUT.width)[None, :]
    return tl.load(data + rows[:, None] * stride + columns[None, :], mask=present, other=0.0)


@triton.jit
def load_tile(x, row, head, begin, rows, tokens, DESCRIBED: tl.constexpr, CUT: tl.constexpr):
    """`rows` of one head, which begin at `begin`; x is `launch.Laid`, or a descriptor of rows by heads."""
    if DESCRIBED:
        tile = x.load([row * tokens + begin, head * CUT.width])
    else:
        tile = load_rows(head_of(x, row, head), rows, x.token, tokens, CUT)
    return tile


@triton.jit
def load_directly(first, stride, begin, tokens, WHOLE: tl.constexpr, CUT: tl.constexpr):
    """A tile of keys or values by plain loads, which nothing waits for before it needs them.

    first: where the tile's first row lies. begin: its number. WHOLE: all rows and columns are there.
    """
    rows, columns = tl.arange(0, CUT.keys), tl.arange(0, CUT.block)
    place = first + (rows[:, None] * stride + columns[None, :])
    if WHOLE:
        tile = tl.load(place)
    else:
        present = (begin + rows < tokens)[:, None] & (columns < CUT.width)[None, :]
        tile = tl.load(place, mask=present, other=0.0)
    return tile


@triton.jit
def store_head(x, row, head, rows, value, tokens, heads, CUT: tl.constexpr):
    """Into a contiguous (B, T, heads, K), where there is room for it."""
    columns = tl.arange(0, CUT.block)
    present = (rows < tokens)[:, None] & (columns < CUT.width)[None, :]
    begin = x + (row.to(tl.int64) * tokens * heads + head) * CUT.width
    place = rows[:, None] * (heads * CUT.width) + columns[None, :]
    tl.store(begin + place, value.to(x.dtype.element_ty), mask=present)


@triton.jit
def scores(queries_QK, keys_SK):
    """q k, in float32: of all kernels the same product of the same tiles, so that all see the same edges."""
    if INTERPRETED:
        # numpy's products of more columns at once sum in another order; tensor cores' do not.
        score = tl.sum(queries_QK.to(tl.float32)[:, None, :] * keys_SK.to(tl.float32)[None, :, :], axis=2)
    else:
        score = tl.dot(queries_QK, tl.trans(keys_SK), input_precision="ieee")
    return score


@triton.jit
def in_order(score):
    """Scores as whole numbers, which are in the same order from 0 on, and below 0 below it.

    For the largest of these a warp has one instruction, and others compare three at a time.
    """
    return score.to(tl.int32, bitcast=True)


@triton.jit
def from_zero(largest):
    """The score that is the largest `in_order`, or 0."""
    return tl.maximum(largest, 0).to(tl.float32, bitcast=True)


@triton.jit
def largest_from_zero(score):
    """The largest score of a tile, or 0."""
    return from_zero(tl.max(in_order(score)))


@triton.jit
def distances(queries, start, KEYS: tl.constexpr):
    """i − j of queries and the keys from `start` on, float32, in which whole numbers up to 2²⁴ are exact."""
    return (queries - start).to(tl.float32)[:, None] - tl.arange(0, KEYS).to(tl.float32)[None, :]


@triton.jit
def margins(score, queries, start, first, bias, friction, scale, PACKED: tl.constexpr):
    """x = score · scale + bias − friction · log₂ max(i − j, 1), −∞ where i may not see j.

    start: the first key of the tile.
    """
    distance = distances(queries, start, score.shape[1])
    bits = log2(tl.maximum(distance, 1.0))
    cost = tl.fma(bits, tl.full(bits.shape, -friction, tl.float32), tl.full(bits.shape, bias, tl.float32))
    x = tl.fma(score, tl.full(bits.shape, scale, tl.float32), tl.where(distance >= 0.0, cost, float("-inf")))
    if PACKED:
        keys = start + tl.arange(0, score.shape[1])
        x = tl.where(keys[None, :] >= first[:, None], x, float("-inf"))
    return x


@triton.jit
def table_of(sight, head):
    """Where the costs of a head (`costs.HeadCosts`) have distance 0."""
    return sight.table + head * sight.between_tables + sight.farthest


@triton.jit
def _columns(KEYS: tl.constexpr):
    """0 to KEYS − 1, as eights and what is beyond them.

    A thread has the same column of every eight. Were that column's bits known, the compiler would join them
    with those of the eights; as it is, the eights stay constants, which cost an address nothing.
    """
    beyond = tl.arange(0, 8).to(tl.int64)
    if not INTERPRETED:
        beyond = tl.inline_asm_elementwise(
            "mov.b64 $0, $1;", "=l,l", [beyond], dtype=tl.int64, is_pure=True, pack=1
        )
    eights = 8 * tl.arange(0, KEYS // 8).to(tl.int64)
    return tl.reshape(eights[:, None] + beyond[None, :], [KEYS])


@triton.jit
def open_margins(score, table, begin, start, scale):
    """`margins` where every query, from `begin` on, sees every key and none of these is the query itself.

    table: that of the head. Rows are taken off first and columns added then, so that the compiler sees which
    entries of a tile are as far apart and reads them once.
    """
    place = (table + (start - begin) - tl.arange(0, score.shape[0]))[:, None] + _columns(score.shape[1])[
        None, :
    ]
    if INTERPRETED:
        cost = tl.load(place)
    else:
        # A load of Triton's own would bring the numbers in another order, and shuffle them.
        cost = tl.inline_asm_elementwise(
            "ld.global.nc.f32 $0, [$1];", "=f,l", [place], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.fma(score, tl.full(cost.shape, scale, tl.float32), cost)


@triton.jit
def margins_of(score, table, at, bias, friction, scale, HIDDEN: tl.constexpr, PACKED: tl.constexpr):
    """`margins` where something is hidden, else `open_margins`. at: queries, begin, start, first."""
    queries, begin, start, first = at
    if HIDDEN:
        x = margins(score, queries, start, first, bias, friction, scale, PACKED)
    else:
        x = open_margins(score, table, begin, start, scale)
    return x
