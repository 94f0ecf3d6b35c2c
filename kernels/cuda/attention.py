"""Attention with an online softmax (Milakov and Gimelshein, 2018; Dao et al., FlashAttention, 2022): a block takes a tile of
queries of one head of keys and walks over the keys that they may see. Query heads that share keys are rows of one tile. Where that
makes too few blocks for a GPU, each walks over a part of the keys only, and a second pass puts the parts together.

The frame and the masks stand here; the products are those of `attention_tiles.py`: on tensor cores for 16-bit floats where heads
are not too large, else in f32 (f64 for f64).
"""

from __future__ import annotations

from ...ir.core import Node
from ...ir.reduction import Reduction
from ...ir.types import BF16, BOOL, F16, DType
from ..attention import Attention, Extent, attention_of, extent_of, key_ends
from ..operands import fill_in, first_int, first_result
from ..printer import literal
from ..spec import Call, KernelSource, Launch, Refusal
from .attention_tiles import MOST, Products, tensor_cores, tiles
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel

BUSY, SHORT = 256, 256  # blocks with which a GPU is busy; keys of a part at least
COPIED = 1024  # elements of the keys and values that are results in a block
# Ints, by name, with the type in which a text knows them.
_INTS = {
    "FastDiv": ("splits", "chunks", "blocks", "kv_heads", "queries", "d_size", "e_size", "total", "by_rows"),
    "u32": ("attending", "few", "rows", "past", "pairs", "keys", "depth", "width"),
    "i64": (*(f"{x}_{axis}" for x in "qkvym" for axis in "nhs"), "m_t", "q_at", "k_at", "v_at"),
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

struct Row { i64 q, y, mask, part; i32 lo, hi; };  // places of its elements; the keys from lo to hi may be seen
DEVICE Row row_of(const Sizes& x, Place b, u32 i) {
    u32 r = b.first + i, n = b.n;
    if (r >= x.rows) return {-1, -1, 0, 0, 0, 0};
    u32 inner = r / x.queries, h = b.g * (x.rows / x.queries) + inner;
    i64 s = r - inner * x.queries.d, offset = OFFSET, hi = x.keys, lo = LOW;
    ENDS
    hi = maximum(hi, i64(0));
    lo = minimum(maximum(lo, i64(0)), hi);
    i64 part = (i64(b.pair) * x.rows + r) * x.splits.d + b.part;
    return {n * x.q_n + h * x.q_h + s * x.q_s, n * x.y_n + h * x.y_h + s * x.y_s, MASKED, part, i32(lo), i32(hi)};
}

// The keys of the block's part, a multiple of `tile` but for the last one.
DEVICE void keep_part(const Sizes& x, Place b, i32 tile, i32& begin, i32& end) {
    if (x.splits.d == 1) return;
    i32 span = (i32(x.keys) + tile * i32(x.splits.d) - 1) / (tile * i32(x.splits.d)) * tile;
    begin = maximum(begin, i32(b.part) * span);
    end = minimum(end, i32(b.part + 1) * span);
}

// Element 0 of key (value) t.
DEVICE i64 key_of(const Sizes& x, Place b, u32 t) { KEY }
DEVICE i64 value_of(const Sizes& x, Place b, u32 t) { VALUE }

// What a product becomes; -inf where the key may not be seen. `seen`: whether any key of the row was.
DEVICE Acc score(const Sizes& x, const Row& row, i32 t, Acc v, bool& seen) {
    if (t < row.lo || t >= row.hi) return -inf;
    v = v * (SCALE);
    SCORE
    return v;
}

DEVICE void store(const Sizes& x, const Row& row, u32 column, Acc y, Acc sum, bool seen) {
    if (column >= x.width) return;
    if (x.splits.d == 1) st_TYPE(x.y, row.y + column, seen ? y / sum : Acc(0));
    else x.values()[row.part * x.width + column] = y;
}
DEVICE void store_sums(const Sizes& x, const Row& row, Acc top, Acc sum, bool seen) {
    if (x.splits.d == 1) return;
    Acc* at = x.sums() + 3 * row.part;
    at[0] = top, at[1] = sum, at[2] = seen;
}

// Puts the parts of the keys together, for an element of the result.
DEVICE void combine(const Sizes& x, u32 u) {
    u32 q = u / x.e_size, pair = q / x.by_rows, n = pair / x.kv_heads, column = u - q * x.e_size.d;
    if (pair >= x.pairs) return;
    Row row = row_of(x, {pair, n, pair - n * x.kv_heads.d, 0, 0, 0}, q - pair * x.by_rows.d);
    const Acc *sums = x.sums() + 3 * row.part, *values = x.values() + row.part * x.width + column;
    Acc top = -inf, sum = 0, y = 0;
    bool seen = false;
    for (u32 i = 0; i < x.splits.d; i++) top = sums[3 * i] > top ? sums[3 * i] : top;
    for (u32 i = 0; i < x.splits.d; i++) {
        Acc fade = top == Acc(-inf) ? Acc(1) : exp(sums[3 * i] - top);
        sum += fade * sums[3 * i + 1];
        y += fade * values[i64(i) * x.width];
        seen = seen || sums[3 * i + 2] != 0;
    }
    st_TYPE(x.y, row.y + column, seen ? y / sum : Acc(0));
}

// Keys and values with the past in front, as results.
DEVICE void copy_new(const Sizes& x, u32 block) {
    for (u32 i = block * COPIED + threadIdx.x; i < (block + 1) * COPIED; i += COPIERS) {
        COPIES
    }
}
"""
_COPY = """
{
    u32 q = i / x.SIZE, e = i - q * x.SIZE.d, pair = q / x.total, n = pair / x.kv_heads, t = q - pair * x.total.d;
    if (i < x.pairs * x.keys * x.COUNT) put_TYPE(x.RESULT, i, get_TYPE(FIND(x, {pair, n, pair - n * x.kv_heads.d, 0, 0, 0}, t), e));
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

    return KernelSource(lambda: _text(a, dtype, products), bind, "tensor cores" if products.threads == 128 else "tiles")


def _products(node: Node, dtype: DType, precision: str) -> Products:
    """What multiplies, by the element type and what is known of the heads' sizes."""
    sizes = []
    for i, heads in ((0, node.attr("q_num_heads")), (2, node.attr("kv_num_heads"))):
        t = node.operands[i].tensor  # type: ignore[union-attr]
        last = t.shape[-1]  # type: ignore[index]
        sizes.append(last if t.rank == 4 else last // heads if isinstance(last, int) else None)
    known = [n for n in sizes if isinstance(n, int)]
    if dtype in (F16, BF16) and len(known) == 2 and max(known) <= MOST and precision != "scalar":
        return tensor_cores(dtype, max(known), ("k", "v", *(("pk", "pv") if node.operand(4) is not None else ())))
    return tiles(dtype, sizes[1] if isinstance(sizes[1], int) else None)


def _bind(x: Extent, tile: Products, results: int) -> Launch:
    """Blocks that attend, then those that copy keys and values that are results."""
    pairs, rows = x.q.batch * x.k.heads, x.groups * x.q.length
    # Small tiles where there are few queries, or too few blocks for a GPU.
    few = rows <= 2 * tile.small or pairs * blocks_for(rows, tile.rows) < 64
    blocks = blocks_for(rows, tile.small if few else tile.rows)
    chunks = blocks_for(x.v.size, tile.columns)
    splits = _splits(pairs * blocks * chunks, x.total)
    attending = checked_size(pairs * blocks * chunks * splits)
    numbers = pairs * rows * splits * (x.v.size + 3) if splits > 1 else 0
    copied = max(checked_size(pairs * x.total * n) for n in (x.k.size, x.v.size)) if results > 1 else 0
    checked_size(x.q.length)
    divisors = (splits, chunks, blocks, x.k.heads, x.q.length, x.k.size, x.v.size, x.total, rows)
    counts = (attending, int(few), rows, x.past, pairs, x.total, x.k.size, x.v.size)
    ints = (*counts, *x.q.steps, *x.k.steps, *x.v.steps, *x.y.steps, *x.mask, x.q.at, x.k.at, x.v.at)
    combine = blocks_for(checked_size(pairs * rows * x.v.size), tile.threads) if splits > 1 else 0
    passes = attending + blocks_for(copied, COPIED), combine
    return Launch((*map(fast_div, divisors), *ints), 1, numbers * tile.size, passes)


def _splits(blocks: int, keys: int) -> int:
    """In how many parts the keys are cut: so many that a GPU is busy, none of them short."""
    return max(1, min(BUSY // max(blocks, 1), keys // SHORT))


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
    frame = _FRAME
    for word, lines in _words(a.node, dtype, acc).items():
        frame = _insert(frame, word, lines)
    frame = fill_in(_insert(frame, "MEMBERS", members), INITIAL=initial, COPIED=COPIED, COPIERS=products.threads, ACC=acc)
    combine = f"if (p[{first + len(kinds)}]) return combine(x, blockIdx.x * {products.threads} + threadIdx.x);"
    body = ["Sizes x(p);", combine, "if (blockIdx.x >= x.attending) return copy_new(x, blockIdx.x - x.attending);"]
    body += products.run
    helpers = [frame.replace("TYPE", str(dtype)).strip("\n"), products.text.strip("\n")]
    return kernel(products.threads, first + len(kinds) + 1, body, helpers, products.shared)


def _words(node: Node, dtype: DType, acc: DType) -> dict[str, list[str]]:
    """What the node's operands and attributes decide."""
    mask, scale, cap = node.operand(3), node.attr("scale"), node.attr("softcap")
    item, left = dtype.itemsize, node.attr("left_window_size")
    score = [f"v = tanh(v / {literal(cap, acc)}) * {literal(cap, acc)};"] if cap else []
    if mask is None:
        score.append("seen = true;")
    else:
        load = f"ld_{mask.tensor.dtype}(x.mask, row.mask + t)"
        value = f"{load} ? Acc(0) : Acc(-inf)" if mask.tensor.dtype is BOOL else f"Acc({load})"
        score += [f"Acc b = {value};", "v = v + b;", "seen = seen || b != Acc(-inf);"]
    ends = [e.replace("lens", "x.lens").replace("m_t", "x.m_t") for e in key_ends(node)]
    words = {
        "OFFSET": "ld_i64(x.lens, n) - i64(x.queries.d)" if node.operand(6) is not None else "x.past",
        "LOW": f"s + offset - {left}" if left >= 0 else "0",
        "MASKED": "0" if mask is None else "n * x.m_n + h * x.m_h + s * x.m_s",
        "SCALE": "Acc(1) / sqrt(Acc(x.depth))" if scale is None else literal(scale, acc),
    }  # fmt: skip
    for word, new, old, size in (("KEY", "k", "pk", "depth"), ("VALUE", "v", "pv", "width")):
        place = f"x.{new} + (b.n * x.{new}_n + b.g * x.{new}_h + i64(t - x.past) * x.{new}_s) * {item}"
        past = f"t < x.past ? x.{old} + (i64(b.pair) * x.past + t) * x.{size} * {item} : "
        words[word] = f"return {past if node.operand(4) is not None else ''}{place};"
    lines = {word: [text] for word, text in words.items()}
    lines["ENDS"] = [f"hi = minimum(hi, i64({e}));" for e in ends]
    lines["SCORE"] = score
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
