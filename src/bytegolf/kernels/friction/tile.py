"""What the friction kernels compute of one tile of edges: queries by keys.

Sparse kernels give the bits that dense ones give because both compute a tile by these functions: whatever is
added after a product is fused with it by name, so that no compiler chooses.
"""

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from triton.language.extra.cuda import libdevice  # type: ignore[import-not-found]

MU: tl.constexpr = tl.constexpr(0)
ETA_MU: tl.constexpr = tl.constexpr(1)
LOG_DOMAIN: tl.constexpr = tl.constexpr(2)
SOFTMAX: tl.constexpr = tl.constexpr(3)

_INTERPRETED: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))
#: What rounding may add to x beside the product: of scale, bias and logarithm.
ROUNDED: tl.constexpr = tl.constexpr(2.0**-12)
#: The largest number whose reciprocal the hardware does not round to 0.
_MOST: tl.constexpr = tl.constexpr(2.0**126)


@triton.jit
def log2(x):
    """The hardware's logarithm of a positive number, within 2⁻²² of it; in one instruction, not in twelve."""
    if _INTERPRETED:
        bits = tl.log2(x)
    else:
        bits = libdevice.fast_log2f(x)
    return bits


@triton.jit
def quotient(x, y):
    """The hardware's x/y, within 2⁻²² of it, for 1 ≤ y ≤ 2¹²⁶."""
    if _INTERPRETED:
        z = x / y
    else:
        z = libdevice.fast_dividef(x, y)
    return z


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
    if _INTERPRETED:
        # numpy's products of more columns at once sum in another order; tensor cores' do not.
        score = tl.sum(queries_QK.to(tl.float32)[:, None, :] * keys_SK.to(tl.float32)[None, :, :], axis=2)
    else:
        score = tl.dot(queries_QK, tl.trans(keys_SK), input_precision="ieee")
    return score


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
def open_margins(score, table, begin, start, scale):
    """`margins` where every query, from `begin` on, sees every key and none of these is the query itself.

    table: that of the head. Rows are taken off first and columns added then, so that the compiler sees which
    entries of a tile are as far apart and reads them once.
    """
    rows, columns = tl.arange(0, score.shape[0]), tl.arange(0, score.shape[1])
    place = (table + (start - begin) - rows)[:, None] + columns[None, :]
    if _INTERPRETED:
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


@triton.jit
def _by_polynomial(eta, GATE: tl.constexpr):
    """μ = z Q(m) and its slope, (1 − z)² (Q + z (1 − 2 z) Q′), for m = z (1 − z): see `polynomial`."""
    z = quotient(eta, 1.0 + eta)
    m = z - z * z
    value = tl.fma(m, tl.full(m.shape, GATE.c3, tl.float32), tl.full(m.shape, GATE.c2, tl.float32))
    value = tl.fma(m, value, tl.full(m.shape, GATE.c1, tl.float32))
    value = tl.fma(m, value, tl.full(m.shape, GATE.c0, tl.float32))
    turn = tl.fma(m, tl.full(m.shape, 3.0 * GATE.c3, tl.float32), tl.full(m.shape, 2.0 * GATE.c2, tl.float32))
    turn = tl.fma(m, turn, tl.full(m.shape, GATE.c1, tl.float32))
    rest = 1.0 - z
    return z * value, rest * rest * tl.fma(z * (rest - z), turn, value)


@triton.jit
def _by_logarithms(eta, EXPONENT: tl.constexpr):
    """μ and its slope as `gate.fidelity` and `gate.fidelity_slope` have them."""
    rho = tl.minimum(eta, quotient(tl.full(eta.shape, 1.0, tl.float32), tl.maximum(eta, 1.0)))
    # Of 0 there is no logarithm; what is below 2⁻¹²⁶ is lost beside 1 either way.
    rho_bits = log2(tl.maximum(rho, 1.0 / _MOST))
    sum_bits = log2(1.0 + tl.exp2(rho_bits * EXPONENT))
    mu = tl.minimum(eta, 1.0) * tl.exp2(sum_bits * (-1.0 / EXPONENT))
    below = tl.where(eta > 1.0, rho_bits * (EXPONENT + 1.0), 0.0)
    return mu, tl.exp2(below - sum_bits * (1.0 + 1.0 / EXPONENT))


@triton.jit
def weights_and_slopes(x, GATE: tl.constexpr):
    """w(x) and dw/dx: see `gate.plain_weights` and `gate.plain_slopes`; eˣ for a softmax."""
    # Of scores above 2¹²⁶ the fidelity ends: the hardware's quotients do.
    eta = tl.maximum(x, 0.0)
    if GATE.form == LOG_DOMAIN:
        decay = tl.exp2(eta * (-1.4426950408889634 * GATE.exponent))
        w = tl.where(x > 0, tl.exp2(log2(1.0 + decay) * (-1.0 / GATE.exponent)), 0.0)
        slope = w * quotient(decay, 1.0 + decay)
    elif GATE.form == SOFTMAX:
        w = tl.exp2(x * 1.4426950408889634)
        slope = w
    else:
        if GATE.by_polynomial:
            w, slope = _by_polynomial(eta, GATE)
        else:
            w, slope = _by_logarithms(eta, GATE.exponent)
        if GATE.form == ETA_MU:
            slope = tl.fma(eta, slope, w)
            w = eta * w
        slope = tl.where(x > 0, slope, 0.0)
    return w, slope
