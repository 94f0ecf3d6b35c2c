"""Attention with an online softmax (Milakov and Gimelshein, 2018; Dao et al., FlashAttention, 2022): a block takes a tile of
queries of one head of keys and walks over the keys that they may see. Query heads that share keys are rows of one tile. Where that
makes too few blocks for a GPU, each walks over a part of the keys only. Where tiles are small, as when a decoder adds a word, the
last block of a tile to come puts its parts together, else a second pass.

The frame and the masks stand here; the products on tensor cores, for 16-bit floats where heads are not too large, in
`attention_tensor.py`; those in f32 (f64 for f64) in `attention_tiles.py`.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.core import Node
from ...ir.recording import greatest, least, opaque
from ...ir.reduction import Reduction
from ...ir.types import BF16, BOOL, F16, DType
from ..attention import Attention, Extent, attention_of, extent_of, key_ends
from ..operands import fill_in, first_int, first_result
from ..printer import literal
from ..spec import Call, KernelSource, Launch, Refusal
from .attention_tensor import MOST, tensor_cores
from .attention_tiles import PART, Products, tiles
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel

COPIED = 1024  # elements of the keys and values that are results in a block
MOST_JOINED = 1024  # tiles whose parts the last block puts together
EACH_JOINED = 2  # elements of a tile for each of its threads, at most, where it does
# Ints, by name, with the type in which a text knows them.
_INTS = {
    "FastDiv": ("splits", "chunks", "blocks", "kv_heads", "queries", "d_size", "e_size", "total", "by_rows"),
    "u32": (
        *("attending", "cut", "rows", "groups", "past", "pairs", "keys", "depth", "width", "span", "wide", "scale"),
        *("joins", "height"),
        *(f"{x}_s" for x in "qkvym"),
    ),
    "i64": (*(f"{x}_{axis}" for x in "qkvym" for axis in "nh"), "m_t", "q_at", "k_at", "v_at"),
}
_FRAME = """
using Acc = ACC;

struct Sizes {
    MEMBERS
    template <class P> __device__ __forceinline__ explicit Sizes(const P& p) : INITIAL {}
    // What parts leave: the sums of values, then for each row and part the greatest score, the sum of weights, and if any was seen.
    __device__ __forceinline__ Acc* values() const { return (Acc*)scratch; }
    __device__ __forceinline__ Acc* sums() const { return values() + i64(pairs) * rows * splits.d * width; }
};

// Where the block works: batch n, head of keys g, the first of its rows and of its columns of values, which part of the keys.
struct Place { u32 pair, n, g, first, column, part; };
DEVICE Place place_of(const Sizes& x, u32 number, u32 height, u32 width) {
    u32 block = number / x.splits, q = block / x.chunks, pair = q / x.blocks, n = pair / x.kv_heads;
    // The last tiles first: with a causal mask they have most to do.
    u32 last = x.blocks.d - 1 - (q - pair * x.blocks.d);
    return {pair, n, pair - n * x.kv_heads.d, last * height, (block - q * x.chunks.d) * width, number - block * x.splits.d};
}

// The keys from lo to hi are those that query s of batch n may see. Neither falls with s.
struct Range { i32 lo, hi; };
DEVICE Range range_of(const Sizes& x, u32 n, i64 s) {
    i64 offset = OFFSET, hi = x.keys, lo = LOW;
    ENDS
    hi = maximum(hi, i64(0));
    return {i32(minimum(maximum(lo, i64(0)), hi)), i32(hi)};
}

struct Row { i64 q, y, mask, part; Range seen; };  // places of its elements, and what it sees
DEVICE Row row_of(const Sizes& x, Place b, u32 i) {
    u32 r = b.first + i, n = b.n;
    if (r >= x.rows) return {-1, -1, 0, 0, {0, 0}};
    u32 inner = GROUPED ? r / x.queries : 0, h = b.g * x.groups + inner, s = r - inner * x.queries.d;
    i64 part = (i64(b.pair) * x.rows + r) * x.splits.d + b.part, q = n * x.q_n + h * x.q_h + i64(u64(s) * x.q_s);
    return {q, n * x.y_n + h * x.y_h + i64(u64(s) * x.y_s), AT_MASK, part, range_of(x, n, s)};
}

// The keys of the block's part.
DEVICE void keep_part(const Sizes& x, Place b, i32& begin, i32& end) {
    begin = maximum(begin, i32(b.part * x.span));
    end = minimum(end, i32((b.part + 1) * x.span));
}

// Element 0 of key (value) t.
DEVICE i64 key_of(const Sizes& x, Place b, u32 t) { KEY }
DEVICE i64 value_of(const Sizes& x, Place b, u32 t) { VALUE }

// Of a score that is so far above the greatest.
DEVICE Acc weight(Acc v) {
    WEIGHT
}

// Puts the parts of the keys together, for an element of the result.
DEVICE void combine(const Sizes& x, u32 u) {
    u32 q = u / x.e_size, pair = q / x.by_rows, n = pair / x.kv_heads, column = u - q * x.e_size.d;
    if (pair >= x.pairs) return;
    Row row = row_of(x, {pair, n, pair - n * x.kv_heads.d, 0, 0, 0}, q - pair * x.by_rows.d);
    const Acc *sums = x.sums() + 3 * row.part, *values = x.values() + row.part * x.width + column;
    Acc top = -inf, sum = 0, y = 0;
    bool seen = false;
#pragma unroll 4
    for (u32 i = 0; i < x.splits.d; i++) top = sums[3 * i] > top ? sums[3 * i] : top;
#pragma unroll 4
    for (u32 i = 0; i < x.splits.d; i++) {
        Acc fade = top == Acc(-inf) ? Acc(1) : weight(sums[3 * i] - top);
        sum += fade * sums[3 * i + 1];
        y += fade * values[i64(i) * x.width];
        seen = seen || sums[3 * i + 2] != 0;
    }
    st_TYPE(x.y, row.y + column, seen ? y / sum : Acc(0));
}

// How many parts of a tile are there so far.
static __device__ u32 arrived[MOST_JOINED];

// Puts the parts of a block's tile together, if all others are there.
DEVICE void join(const Sizes& x) {
    if (!x.joins) return;
    __shared__ u32 before;
    if (!comes_last(arrived + blockIdx.x / x.splits, x.splits.d, &before)) return;
    const Place b = place_of(x, blockIdx.x, x.height, BLOCK_COLUMNS);
    const u32 rows = minimum(x.height, x.rows - b.first), columns = minimum(u32(BLOCK_COLUMNS), x.width - b.column);
    for (u32 i = threadIdx.x; i < rows * columns; i += COPIERS) {
        u32 row = i / columns;
        combine(x, (b.pair * x.rows + b.first + row) * x.width + b.column + (i - row * columns));
    }
}

// Keys and values with the past in front, as results, by packs where operands lie so.
template <u32 EACH> DEVICE void copy_new(const Sizes& x, u32 block) {
    for (u32 i = block * COPIED + threadIdx.x * EACH; i < (block + 1) * COPIED; i += COPIERS * EACH) {
        COPIES
    }
}
DEVICE void copy_new(const Sizes& x, u32 block) {
    if (x.wide & 1 && ((ADDRESSES | NEW) & 15) == 0) copy_new<16 / sizeof(element_TYPE::Memory)>(x, block);
    else copy_new<1>(x, block);
}
"""
_COPY = """
{
    u32 q = i / x.SIZE, e = i - q * x.SIZE.d, pair = q / x.total, n = pair / x.kv_heads, t = q - pair * x.total.d;
    if (i < x.pairs * x.keys * x.COUNT)
        store_pack(x.RESULT, i, load_pack<element_TYPE, EACH>(FIND(x, {pair, n, pair - n * x.kv_heads.d, 0, 0, 0}, t), e));
}
"""


@serves("attention", "fused.attention")
def build(node: Node, precision: str = "fp32") -> KernelSource | Refusal:
    """The kernel of attention, with all that the operator has but scores as a result; "scalar": without tensor cores."""
    a = attention_of(node)
    if isinstance(a, Refusal):
        return a
    dtype = a.node.operands[0].tensor.dtype  # type: ignore[union-attr]
    products = _products(a.node, dtype, precision)

    def bind(call: Call) -> Launch:
        return _bind(extent_of(a, call), products, len(node.results))

    return KernelSource(lambda: _text(a, dtype, products), bind, products.name)


def _products(node: Node, dtype: DType, precision: str) -> Products:
    """What multiplies, by the element type and what is known of the heads' sizes."""
    sizes = []
    for i, heads in ((0, node.attr("q_num_heads")), (2, node.attr("kv_num_heads"))):
        t = node.operands[i].tensor  # type: ignore[union-attr]
        last = t.shape[-1]  # type: ignore[index]
        sizes.append(last if t.rank == 4 else last // heads if isinstance(last, int) else None)
    known = [n for n in sizes if isinstance(n, int)]
    if dtype in (F16, BF16) and len(known) == 2 and max(known) <= MOST and precision != "scalar":
        return tensor_cores(dtype, max(known))
    return tiles(dtype, sizes[1] if isinstance(sizes[1], int) else None)


def _groups(node: Node) -> int | None:
    """How many query heads share a head of keys, None where that is not known."""
    q, k = (
        t.shape[1] if t.rank == 4 else node.attr(f"{name}_num_heads")  # type: ignore[index, union-attr]
        for name, t in (("q", node.operands[0].tensor), ("kv", node.operands[1].tensor))  # type: ignore[union-attr]
    )
    return q // k if isinstance(q, int) and isinstance(k, int) and k else None


def _cut(products: Products, pairs: int, rows: int, keys: int) -> tuple[int, int, int]:
    """Which tile a block has, its rows, and in how many parts the keys are cut."""
    cut, splits = products.choose(products, pairs, rows, keys)
    return cut, products.rows[cut], splits


def _wide(pack: int, *steps: int) -> int:
    """Whether what moves by these steps can be read in packs: operands and result by 8 numbers, the mask by pairs."""
    return int(all(n % pack == 0 for n in steps))


def _scale(size: int) -> int:
    """The bits of 1 / sqrt(size)."""
    return int(np.float32(1 / math.sqrt(size or 1)).view(np.uint32))


def _bind(x: Extent, products: Products, results: int) -> Launch:
    """Blocks that attend, then those that copy keys and values that are results."""
    pairs, rows = x.q.batch * x.k.heads, x.groups * x.q.length
    chunks = blocks_for(x.v.size, products.columns)
    cut, height, splits = opaque(_cut, products, pairs * chunks, rows, x.total)
    blocks = blocks_for(rows, height)
    attending = checked_size(pairs * blocks * chunks * splits)
    numbers = pairs * rows * splits * (x.v.size + 3) if splits > 1 else 0
    small = least(rows, height) * least(x.v.size, products.columns) <= EACH_JOINED * products.threads
    joins = splits > 1 and small and pairs * blocks * chunks <= MOST_JOINED
    copied = greatest(*(checked_size(pairs * x.total * n) for n in (x.k.size, x.v.size))) if results > 1 else 0
    steps = [lie.steps for lie in (x.q, x.k, x.v, x.y)]
    for n in (x.q.length, *(step[2] for step in steps), x.mask[2]):
        checked_size(n)
    wide = opaque(_wide, 8, x.k.size, x.v.size, *(n for step in steps for n in step)) + 2 * opaque(_wide, 2, *x.mask)
    divisors = (splits, chunks, blocks, x.k.heads, x.q.length, x.k.size, x.v.size, x.total, rows)
    span = blocks_for(x.total, PART * splits) * PART
    scale = opaque(_scale, x.q.size)
    counts = (attending, cut, rows, x.groups, x.past, pairs, x.total, x.k.size, x.v.size, span, wide, scale, int(joins), height)
    steps.append(x.mask[:3])  # type: ignore[arg-type]
    outer = [n for step in steps for n in step[:2]]
    ints = (*counts, *(step[2] for step in steps), *outer, x.mask[3], x.q.at, x.k.at, x.v.at)
    combine = blocks_for(checked_size(pairs * rows * x.v.size), products.threads) if splits > 1 and not joins else 0
    passes = attending + blocks_for(copied, COPIED), combine
    return Launch((*map(fast_div, divisors), *ints), 1, numbers * products.size, passes)


def _text(a: Attention, dtype: DType, products: Products) -> str:
    acc, first, result = Reduction.accumulator(dtype), first_int(a.outer), first_result(a.outer)
    operands = {name: a.slot(i) for i, name in enumerate(("q", "k", "v", "mask", "pk", "pv", "lens")) if a.has(i)}
    operands |= {name: result + j for j, name in enumerate(("y", "new_k", "new_v")[: len(a.node.results)])}
    operands["scratch"] = first - 1
    kinds = [(kind, name) for kind, names in _INTS.items() for name in names]
    slots = {name: first + k for k, (_, name) in enumerate(kinds)}
    members = [f"i64 {', '.join(operands)};", *(f"{kind} {', '.join(names)};" for kind, names in _INTS.items())]
    places = {name: f"p[{slot}]" for name, slot in (operands | slots).items()}
    for name in "qkv":
        places[name] += f" + {places[name + '_at']} * {dtype.itemsize}"
    initial = ", ".join(f"{name}({place})" for name, place in places.items())
    mask = a.node.operand(3)
    text = f"{_FRAME}\n{products.text}".replace("OF_MASK", str(mask.tensor.dtype if mask else "bool"))
    for word, lines in _words(a.node, dtype, acc, products).items():
        text = _insert(text, word, lines)
    text = fill_in(
        _insert(text, "MEMBERS", members).replace("TYPE", str(dtype)),
        INITIAL=initial,
        COPIED=COPIED,
        COPIERS=products.threads,
        MOST_JOINED=MOST_JOINED,
        BLOCK_COLUMNS=products.columns,
        ACC=acc,
    )
    combine = f"if (p[{first + len(kinds)}]) return combine(x, blockIdx.x * {products.threads} + threadIdx.x);"
    body = ["Sizes x(p);", combine, "if (blockIdx.x >= x.attending) return copy_new(x, blockIdx.x - x.attending);"]
    body += [*products.run, "join(x);"]
    return kernel(products.threads, first + len(kinds) + 1, body, [text.strip("\n")], products.shared)


def _words(node: Node, dtype: DType, acc: DType, products: Products) -> dict[str, list[str]]:
    """What the node's operands and attributes decide."""
    mask, scale, cap = node.operand(3), node.attr("scale"), node.attr("softcap")
    item, left, past = dtype.itemsize, node.attr("left_window_size"), node.operand(4) is not None
    score = [f"v = tanh(v / {literal(cap, acc)}) * {literal(cap, acc)};"] if cap else []
    if mask is None:
        score.append("seen = true;")
    else:
        value = "m ? Acc(0) : Acc(-inf)" if mask.tensor.dtype is BOOL else "Acc(m)"
        score += [f"Acc b = {value};", "v = v + b;", "seen |= b != Acc(-inf);"]
    powers = mask is None and not cap  # of two: scores are their logarithms at once
    ends = [e.replace("lens", "x.lens").replace("m_t", "x.m_t") for e in key_ends(node)]
    words = {
        "OFFSET": "ld_i64(x.lens, n) - i64(x.queries.d)" if node.operand(6) is not None else "x.past",
        "LOW": f"s + offset - {left}" if left >= 0 else "0",
        "GROUPED": "false" if _groups(node) == 1 else "true",
        "AT_MASK": "0" if mask is None else "n * x.m_n + h * x.m_h + i64(u64(s) * x.m_s)",
        "SCALE": products.scale if scale is None else literal(scale, acc),
        "MASK_AT": "0" if mask is None else "x.mask",
        "MASKED": "false" if mask is None else "true",
        "POWERS": "true" if powers else "false",
    }  # fmt: skip
    for word, new, old, size in (("KEY", "k", "pk", "depth"), ("VALUE", "v", "pv", "width")):
        first = f"x.{new} + (b.n * x.{new}_n + b.g * x.{new}_h) * {item}"
        before = f"x.{old} + i64(b.pair) * x.past * x.{size} * {item}"
        either = f"t < x.past ? {before} + i64(t) * x.{size} * {item} : " if past else ""
        words[word] = f"return {either}{first} + i64(u64(t - x.past) * x.{new}_s) * {item};"
        words[f"PAST_{new.upper()}"] = before if past else "0"
    words["ADDRESSES"] = " | ".join(f"x.{name}" for name in ("q", "k", "v", "y", *(("pk", "pv") if past else ())))
    words["BLOCKS"] = "2" if past or cap or (mask is not None and mask.tensor.dtype.itemsize > 2) else "3"
    words["LINE"] = f"return {'t < count ? past + i64(u64(t) * size) : ' * past}now + i64(u64(t - count) * step);"
    lines = {word: [text] for word, text in words.items()}
    lines["WEIGHT"] = products.weight(powers)
    lines["ENDS"] = [f"hi = minimum(hi, i64({e}));" for e in ends]
    lines["SCORE"] = score
    lines["NEW"] = [" | ".join(f"x.{name}" for name in ("new_k", "new_v")[: len(node.results) - 1]) or "0"]
    copies = [("d_size", "depth", "new_k", "key_of"), ("e_size", "width", "new_v", "value_of")][: len(node.results) - 1]
    texts = [fill_in(_COPY, SIZE=size, COUNT=n, RESULT=name, FIND=find).strip("\n") for size, n, name, find in copies]
    lines["COPIES"] = [line for text in texts for line in text.split("\n")]
    return lines


def _insert(text: str, word: str, lines: list[str]) -> str:
    """The text with the word, alone on its line or within one, replaced by lines at its indent."""
    out = []
    for line in text.split("\n"):
        if line.strip() == word:
            out += [line.replace(word, new) for new in lines]
        else:
            out.append(fill_in(line, **{word: lines[0]}) if lines else line)
    return "\n".join(out)
