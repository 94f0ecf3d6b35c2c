"""Attention: scores, softmax and weighted sum for a block of queries at a time, everything in f32 (f64 for f64).

The keys of a head are packed as panels of two vectors of keys, the values as panels of two vectors of columns, and both products
are those of `gemm_panel`; query heads that share keys are rows of one product. The softmax divides at the end, in the epilogue
of the second product, which goes through the keys in stages that the first-level cache holds. What no query of a block may see by
position costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.core import Node
from ...ir.recording import greatest, least
from ...ir.reduction import Reduction
from ...ir.types import BOOL, F32
from ..attention import Extent, attention_of, extent_of, key_ends
from ..operands import fill_in, first_int, first_result
from ..printer import literal
from ..spec import KernelSource, Launch, Refusal
from .blocks import PAD
from .target import serves
from .tiling import tiling

ROWS = 48  # queries of a block, at most
VECTORS = 2  # of a panel
STAGE = 256  # keys of a stage of the second product
SCORES_BYTES = 1 << 18  # what the scores of a block may take of the second-level cache
LONG = 1 << 30  # multiplications of a tile, about, where tiles are many
MAX_TILES, WANTED_TILES = 32, 12  # each has scratch memory for a head's keys and values
SUMS = (("acc",), ("factor", 0), ("mul", 0, 1))  # the program of the second product

_KERNEL = """
score_panel = gemm_panel(ACC_NAME, VECTOR, HIGH, VECTORS)
value_panel = gemm_panel(TYPE_NAME, VECTOR, HIGH, VECTORS, PROGRAM, True)

def kernel(p, tile, ntiles):
    y = param(p, RESULT)
NAMES
    keys = (total + WIDE - 1) // WIDE * WIDE
    columns = (e_size + WIDE - 1) // WIDE * WIDE
    kp = param(p, RESULT + COUNT) + tile * bytes
    vp = kp + keys * d_size * SIZE
    qs = vp + total * columns * SIZE
    sc = qs + ROWS * d_size * SIZE
    part = sc + block * keys * SIZE
    inverses = alloc(ENTRIES)
    ends = alloc(ENTRIES)
    table_q = alloc(ENTRIES)
    table_s = alloc(ENTRIES)
    table_p = alloc(ENTRIES)
    table_y = alloc(ENTRIES)
    table_r = alloc(ENTRIES)
    zero = alloc(8)
    st_i64(zero, 0, 0)
    factor = SCALE
    many = groups * queries
    blocks = maximum((many + block - 1) // block, 1)  # one where there is no query, for the keys that are results
    units = batch * kv_heads * blocks
    packed = -1
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        pair = u // blocks
        first = (u - pair * blocks) * block
        n = pair // kv_heads
        g = pair - n * kv_heads
        if pair != packed:
            packed = pair
            memset(kp + total // WIDE * WIDE * d_size * SIZE, 0, (keys - total // WIDE * WIDE) * d_size * SIZE)
            memset(vp + e_size // WIDE * WIDE * total * SIZE, 0, (columns - e_size // WIDE * WIDE) * total * SIZE)
            new = total - past
            PACK
            for t in range(total):
                OLDPART
                ka = n * k_n + g * k_h + (t - past) * k_s
                va = n * v_n + g * v_h + (t - past) * v_s
                at = t // WIDE * WIDE * d_size + t % WIDE
                if t >= past + whole:
                    for d in range(d_size):
                        st_ACC(kp, at + d * WIDE, ld_TYPE(k, ka + d))
                if t >= past:
                    for e in range(0, e_size // LANES * LANES, LANES):
                        stv_ACC(vp, e // WIDE * WIDE * total + t * WIDE + e % WIDE, ldv_TYPE(v, va + e))
                    for e in range(e_size // LANES * LANES, e_size):
                        put_ACC(vp, e // WIDE * WIDE * total + t * WIDE + e % WIDE, get_TYPE(v, va + e))
        height = minimum(many - first, block)
        offset = OFFSET
        end = 0
        for i in range(height + PAD):
            j = maximum(minimum(i, height - 1), 0)
            r = first + j
            s = r % queries
            st_i64(table_q, i, qs + j * d_size * SIZE)
            st_i64(table_s, i, sc + j * keys * SIZE)
            st_i64(table_y, i, y + (n * y_n + (g * groups + r // queries) * y_h + s * y_s) * ITEM)
            st_i64(table_r, i, j * SIZE)
            END
            hi = maximum(minimum(hi, total), 0)
            st_i64(ends, i, hi)
            if i < height:
                end = maximum(end, hi)
                at = n * q_n + (g * groups + r // queries) * q_h + s * q_s
                for d in range(d_size):
                    put_ACC(qs, i * d_size + d, mul(get_TYPE(q, at + d), factor))
        for c in range(0, end, WIDE):
            i = 0
            while ld_i64(ends, i) <= c:
                i += 1
            score_panel(height - i, d_size, 1, table_q + 8 * i, 0, kp + c * d_size * SIZE, zero, table_s + 8 * i, c * SIZE, WIDE,
                        table_r)
        for i in range(height):
            row = sc + i * keys * SIZE
            r = first + i
            s = r % queries
            h = g * groups + r // queries
            hi = ld_i64(ends, i)
            LOW
            lo = minimum(maximum(lo, 0), hi)
            SOFTMAX
        for t in range(0, maximum(end, 1), STAGE):
            depth = minimum(end - t, STAGE)
            for i in range(height + PAD):
                st_i64(table_p, i, ld_i64(table_s, i) + t * SIZE)
            stage = (1 if t > 0 else 0) + (2 if t + depth == end else 0)
            for e in range(0, e_size, WIDE):
                value_panel(height, depth, 1, table_p, 0, vp + (e * total + t * WIDE) * SIZE, zero, table_y, e * ITEM, e_size - e,
                            table_r, part + e * (ROWS + PAD) * SIZE, stage, inverses)
"""
# The loop bodies have the forms for whole vectors and, behind them, for the last few elements.
_SOFTMAX = """
tops = splat(ACC(-inf))
seen = splat(ACC(-inf))
MASKROW
j = lo
while j + LANES <= hi:
    x = ldv_ACC(row, j)
    CAP
    MASK
    stv_ACC(row, j, x)
    tops = where(gt(x, tops), x, tops)  # a NaN is found by the sum
    j += LANES
if j < hi:
    x = ldm_ACC(row, j, hi - j)
    CAP
    LASTMASK
    stm_ACC(row, j, hi - j, x)
    tops = maximum(tops, head(x, hi - j, ACC(-inf)))
top = hmax(tops)
sums = splat(ACC(0))
more = splat(ACC(0))
j = lo
while j + 4 * LANES <= hi:
    x0 = softmax_exp(sub(ldv_ACC(row, j), top))
    x1 = softmax_exp(sub(ldv_ACC(row, j + LANES), top))
    x2 = softmax_exp(sub(ldv_ACC(row, j + 2 * LANES), top))
    x3 = softmax_exp(sub(ldv_ACC(row, j + 3 * LANES), top))
    stv_ACC(row, j, x0)
    stv_ACC(row, j + LANES, x1)
    stv_ACC(row, j + 2 * LANES, x2)
    stv_ACC(row, j + 3 * LANES, x3)
    sums = add(sums, add(x0, x1))
    more = add(more, add(x2, x3))
    j += 4 * LANES
sums = add(sums, more)
while j + LANES <= hi:
    x = softmax_exp(sub(ldv_ACC(row, j), top))
    stv_ACC(row, j, x)
    sums = add(sums, x)
    j += LANES
if j < hi:
    x = softmax_exp(sub(ldm_ACC(row, j, hi - j), top))
    stm_ACC(row, j, hi - j, x)
    sums = add(sums, head(x, hi - j, ACC(0)))
blind = BLIND
if blind:
    lo = hi
for j in range(0, lo):
    st_ACC(row, j, ACC(0))
for j in range(hi, end):
    st_ACC(row, j, ACC(0))
st_ACC(inverses, i, ACC(0) if blind else div(ACC(1), hsum(sums)))
"""
# Keys to panels, in blocks of 4 by 8 where that is all there is to do.
_PACK_U32 = """
whole = new // WIDE * WIDE
for t in range(0, whole, 8):
    ka = k + (n * k_n + g * k_h + t * k_s) * SIZE
    at = kp + (t // WIDE * WIDE * d_size + t % WIDE) * SIZE
    for d in range(0, d_size // 4 * 4, 4):
        transpose_u32(ka + d * SIZE, k_s * SIZE, at + d * WIDE * SIZE, WIDE * SIZE)
    for d in range(d_size // 4 * 4, d_size):
        for t8 in range(8):
            st_ACC(at, d * WIDE + t8, ld_TYPE(ka, t8 * k_s + d))
"""


@serves("attention", "fused.attention")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of attention, with all that the operator has but scores as a result."""
    a = attention_of(node)
    if isinstance(a, Refusal):
        return a
    q = a.node.operands[0].tensor  # type: ignore[union-attr]
    acc, item = Reduction.accumulator(q.dtype), q.dtype.itemsize
    first = first_result(node)
    ints = [*INTS, *(f"m_{axis}" for axis in "nhst")]
    names = [f"{name} = param(p, {first_int(node) + i})" for i, name in enumerate(ints)]
    names += [f"{name} = param(p, {a.slot(i)}) + {name}_at * {item}" for i, name in enumerate("qkv")]
    names += [f"{name} = param(p, {a.slot(i)})" for i, name in ((3, "mask"), (4, "pk"), (5, "pv"), (6, "lens")) if a.has(i)]
    names += [f"{name} = param(p, {first + 1 + j})" for j, name in enumerate(("new_k", "new_v")[: len(node.results) - 1])]
    text = _assemble(a.node, names)
    text = text.replace("_ACC(", f"_{acc}(").replace("ACC(", f"{acc}(").replace("_TYPE(", f"_{q.dtype}(")
    if a.has(3):
        text = text.replace("_MASKTYPE(", f"_{a.node.operand(3).tensor.dtype}(")  # type: ignore[union-attr]
    t = tiling(acc.itemsize)
    text = fill_in(text, RESULT=first, COUNT=len(node.results), SIZE=acc.itemsize, ITEM=item, ROWS=ROWS, PAD=PAD, STAGE=STAGE,
                   ENTRIES=8 * (ROWS + PAD), ACC_NAME=repr(acc.name), TYPE_NAME=repr(q.dtype.name), VECTOR=t.lanes,
                   HIGH=t.rows[VECTORS], VECTORS=VECTORS, WIDE=VECTORS * t.lanes, PROGRAM=repr(SUMS))  # fmt: skip
    return KernelSource(text, lambda call: _bind(extent_of(a, call), acc.itemsize), "blocks of queries")


INTS = ("batch", "kv_heads", "groups", "queries", "total", "past", "d_size", "e_size", "block", "bytes", "q_n", "q_h", "q_s", "k_n",
        "k_h", "k_s", "v_n", "v_h", "v_s", "y_n", "y_h", "y_s", "q_at", "k_at", "v_at")  # fmt: skip


def _bind(x: Extent, size: int) -> Launch:
    q, k, v, y, past, total, groups, mask = x
    wide, high = VECTORS * tiling(size).lanes, tiling(size).rows[VECTORS]
    keys, columns = _up(total, wide), _up(v[3], wide)
    block = greatest(1, least(ROWS // high, SCORES_BYTES // greatest(high * keys * size, 1))) * high
    numbers = keys * q[3] + total * columns + ROWS * q[3] + block * keys + (ROWS + PAD) * columns
    scratch = _up(numbers * size, 64)
    steps = (*q.steps, *k.steps, *v.steps, *y.steps, q.at, k.at, v.at)
    ints = (q[0], k[1], groups, q[2], total, past, q[3], v[3], block, scratch, *steps, *mask)
    pairs, blocks = q[0] * k[1], -(-groups * q[2] // block)
    # Whole heads where there are enough; where there is much to do, tiles that end now and then, so that a run can be stopped.
    wanted = greatest(WANTED_TILES, least(pairs * groups * q[2] * total * _up(q[3] + v[3], wide) // LONG, MAX_TILES))
    tiles = greatest(1, least(pairs * least(blocks, -(-wanted // greatest(pairs, 1))), MAX_TILES))
    return Launch(ints, tiles, scratch * tiles)


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


def _assemble(node: Node, names: Sequence[str]) -> str:
    """The text with what the node's operands and attributes decide."""
    mask, has_lens = node.operand(3), node.operand(6) is not None
    scale, cap = node.attr("scale"), node.attr("softcap")
    q = node.operands[0].tensor.dtype  # type: ignore[union-attr]
    acc = Reduction.accumulator(q)
    words = {
        "NAMES": ["    " + line for line in names],
        "SCALE": [f"div(ACC(1), sqrt(to_{acc}(d_size)))" if scale is None else literal(scale, acc)],
        "OLDPART": _copies(node),
        "PACK": _PACK_U32.strip("\n").split("\n") if q is F32 and node.operand(4) is None else ["whole = 0"],
        "OFFSET": ["ld_i64(lens, n) - queries" if has_lens else "past"],
        "END": _end(node),
        "LOW": [f"lo = s + offset - {node.attr('left_window_size')}" if node.attr("left_window_size") >= 0 else "lo = 0"],
        "SOFTMAX": _SOFTMAX.strip("\n").split("\n"),
    }
    text = _KERNEL.lstrip("\n")
    for word, lines in words.items():
        text = _insert(text, word, lines)
    capped = [f"x = mul(tanh(div(x, {literal(cap, acc)})), {literal(cap, acc)})"] if cap else []
    text = _insert(text, "CAP", capped)
    if mask is None:
        for word in ("MASKROW", "MASK", "LASTMASK"):
            text = _insert(text, word, [])
        return _insert(text, "BLIND", ["lo == hi"])
    text = _insert(text, "MASKROW", ["m_at = n * m_n + h * m_h + s * m_s"])
    for word, load in (("MASK", "ldv_MASKTYPE(mask, m_at + j)"), ("LASTMASK", "ldm_MASKTYPE(mask, m_at + j, hi - j)")):
        value = f"where({load}, ACC(0), ACC(-inf))" if mask.tensor.dtype is BOOL else f"to_{acc}({load})"
        some = "b" if word == "MASK" else "head(b, hi - j, ACC(-inf))"
        text = _insert(text, word, [f"b = {value}", "x = add(x, b)", f"seen = maximum(seen, {some})"])
    return _insert(text, "BLIND", ["hmax(seen) == ACC(-inf)"])


def _insert(text: str, word: str, lines: Sequence[str]) -> str:
    """The text with the word, alone on its line or within one, replaced by lines at its indent."""
    out = []
    for line in text.split("\n"):
        if line.strip() == word:
            indent = line[: len(line) - len(line.lstrip())]
            out += [indent + x for x in lines]
        else:
            parts = line.rsplit(f" {word}", 1)
            out.append(f"{parts[0]} {lines[0]}" if len(parts) == 2 and not parts[1] else line)
    return "\n".join(out)


def _end(node: Node) -> list[str]:
    """`hi`: behind the last key that query s may see."""
    return ["hi = total", *(f"hi = minimum(hi, {e})" for e in key_ends(node))]


def _copies(node: Node) -> list[str]:
    """Packs keys and values of the past, and stores those that are results."""
    lines = []
    if node.operand(4) is not None:
        lines = [
            "if t < past:",
            "    at = t // WIDE * WIDE * d_size + t % WIDE",
            "    for d in range(d_size):",
            "        st_ACC(kp, at + d * WIDE, ld_TYPE(pk, (pair * past + t) * d_size + d))",
            "    for e in range(e_size):",
            "        st_ACC(vp, e // WIDE * WIDE * total + t * WIDE + e % WIDE, ld_TYPE(pv, (pair * past + t) * e_size + e))",
        ]
    for j, (name, size, source, old) in enumerate((("new_k", "d_size", "k", "pk"), ("new_v", "e_size", "v", "pv"))):
        if len(node.results) <= 1 + j:
            break
        place = f"n * {source}_n + g * {source}_h + (t - past) * {source}_s"
        new = f"st_TYPE({name}, (pair * total + t) * {size} + x, ld_TYPE({source}, {place} + x))"
        past = f"st_TYPE({name}, (pair * total + t) * {size} + x, ld_TYPE({old}, (pair * past + t) * {size} + x))"
        lines += ["if first == 0 and t >= past:", f"    for x in range({size}):", f"        {new}"]
        lines += ["if first == 0 and t < past:", f"    for x in range({size}):", f"        {past}"] if node.operand(4) else []
    return lines
