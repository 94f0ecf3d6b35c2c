"""The products of attention on the cores for all: a text of `attend`, which a frame precedes (attention.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...ir.types import F64, DType
from ..operands import fill_in
from .text import blocks_for


class Products(NamedTuple):
    """A text of `attend`, the lines that call it, and how a block works with it.

    `choose` says, of these products, the pairs of heads and columns, the rows of each and the keys, which number of `rows` is
    the tile of a block, and in how many parts the keys are cut.
    """

    name: str
    text: str
    run: tuple[str, ...]
    threads: int
    rows: tuple[int, ...]
    columns: int  # of values in a block
    size: int  # bytes of a number
    shared: int  # bytes of dynamic shared memory
    scale: str  # without an attribute that says it
    weight: Callable[[bool], list[str]]  # the lines of the power of a score, or of e
    choose: Callable[[Products, int, int, int], tuple[int, int]]


# Threads stand 16 by 16. A tile is R * 16 queries by N * 16 keys; a thread has R by N scores of it, and R rows by COLUMNS / 16
# columns of the result, read from shared memory in vectors. Operands lie there with the reduced axis first: a warp loads 4 rows by
# 8 neighbours (whole sectors of 32 bytes), and rows of 16 * N + 4 numbers put the 32 of them into different banks.
_TILE_TEXT = """
constexpr u32 N = TILE, KEYS = 16 * N, DEPTH = 32, VALUES = 32, PITCH = KEYS + 4;
struct alignas(16) Numbers {
    Acc operands[DEPTH * PITCH * 2 > VALUES * COLUMNS ? DEPTH * PITCH * 2 : VALUES * COLUMNS];
    Acc weights[KEYS * PITCH];
};
template <int n> struct alignas(n * sizeof(Acc)) Vector { Acc at[n]; };

// What a product becomes; -inf where the key may not be seen. `seen`: whether any key of the row was.
DEVICE Acc score(const Sizes& x, const Row& row, i32 t, Acc v, bool& seen) {
    if (t < row.seen.lo || t >= row.seen.hi) return -inf;
    v = v * (SCALE);
    const auto m = MASKED ? ld_OF_MASK(MASK_AT, row.mask + t) : element_OF_MASK::Register();
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

// Numbers [rows, DEPTH] that find(row, depth) gives, transposed.
template <u32 rows, class F> DEVICE void load(Acc* to, u32 pitch, F find) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 w = threadIdx.x / 32; w < rows / 4 * (DEPTH / 8); w += 8) {
        u32 row = w % (rows / 4) * 4 + lane % 4, depth = w / (rows / 4) * 8 + lane / 4;
        to[depth * pitch + row] = find(row, depth);
    }
}

template <int R> DEVICE void attend(const Sizes& x, Numbers& shared) {
    constexpr u32 rows = 16 * R, pitch = rows + 4, C = COLUMNS / (16 * N);
    Place b = place_of(x, blockIdx.x, rows, COLUMNS);
    u32 tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    Row row[R];
    Acc top[R], sum[R], y[R][C * N];
    bool seen[R];
    i32 begin = x.keys, end = 0;
#pragma unroll
    for (u32 i = 0; i < R; i++) {
        row[i] = row_of(x, b, ty * R + i);
        if (row[i].seen.lo < row[i].seen.hi) begin = minimum(begin, row[i].seen.lo), end = maximum(end, row[i].seen.hi);
        top[i] = -inf, sum[i] = 0, seen[i] = false;
        for (u32 e = 0; e < C * N; e++) y[i][e] = 0;
    }
    begin = block_min<256>(begin) / i32(KEYS) * KEYS, end = block_max<256>(end);
    keep_part(x, b, begin, end);
    Acc *qs = shared.operands, *ks = qs + DEPTH * PITCH, *vs = qs, *ps = shared.weights;
    for (i32 t0 = begin; t0 < end; t0 += KEYS) {
        Acc s[R][N] = {};
        for (u32 d0 = 0; d0 < x.depth; d0 += DEPTH) {
            __syncthreads();
            load<rows>(qs, pitch, [&](u32 i, u32 d) {
                i64 at = row_of(x, b, i).q;
                return at < 0 || d0 + d >= x.depth ? Acc(0) : Acc(ld_TYPE(x.q, at + d0 + d));
            });
            load<KEYS>(ks, PITCH, [&](u32 t, u32 d) {
                return t0 + t >= x.keys || d0 + d >= x.depth ? Acc(0) : Acc(ld_TYPE(key_of(x, b, t0 + t), d0 + d));
            });
            __syncthreads();
#pragma unroll 8
            for (u32 d = 0; d < DEPTH; d++) {
                auto q = *(const Vector<R>*)(qs + d * pitch + ty * R);
                auto k = *(const Vector<N>*)(ks + d * PITCH + tx * N);
#pragma unroll
                for (u32 i = 0; i < R; i++)
#pragma unroll
                    for (u32 j = 0; j < N; j++) s[i][j] = fma(q.at[i], k.at[j], s[i][j]);
            }
        }
#pragma unroll
        for (u32 i = 0; i < R; i++) {
            Acc next = top[i];
#pragma unroll
            for (u32 j = 0; j < N; j++) {
                s[i][j] = score(x, row[i], t0 + tx * N + j, s[i][j], seen[i]);
                next = s[i][j] > next ? s[i][j] : next;  // a NaN is found by the sum
            }
            for (u32 m = 8; m; m /= 2) {
                Acc other = lane_xor(next, m);
                next = other > next ? other : next;
            }
            Acc fade = next == Acc(-inf) ? Acc(1) : exp(top[i] - next);
            top[i] = next;
            sum[i] *= fade;
#pragma unroll
            for (u32 e = 0; e < C * N; e++) y[i][e] *= fade;
#pragma unroll
            for (u32 j = 0; j < N; j++) {
                Acc weight = s[i][j] == Acc(-inf) ? Acc(0) : exp(s[i][j] - next);
                sum[i] += weight;
                ps[(tx * N + j) * pitch + ty * R + i] = weight;
            }
        }
        for (u32 v0 = 0; v0 < KEYS; v0 += VALUES) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < VALUES * COLUMNS; i += 256) {
                u32 t = t0 + v0 + i / COLUMNS, e = b.column + i % COLUMNS;
                vs[i] = t >= x.keys || e >= x.width ? Acc(0) : Acc(ld_TYPE(value_of(x, b, t), e));
            }
            __syncthreads();
#pragma unroll 4
            for (u32 t = 0; t < VALUES; t++) {
                auto w = *(const Vector<R>*)(ps + (v0 + t) * pitch + ty * R);
#pragma unroll
                for (u32 c = 0; c < C; c++) {
                    auto v = *(const Vector<N>*)(vs + t * COLUMNS + c * 16 * N + tx * N);
#pragma unroll
                    for (u32 i = 0; i < R; i++)
#pragma unroll
                        for (u32 j = 0; j < N; j++) y[i][c * N + j] = fma(w.at[i], v.at[j], y[i][c * N + j]);
                }
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < R; i++) {
        for (u32 m = 8; m; m /= 2) {
            sum[i] += lane_xor(sum[i], m);
            seen[i] |= lane_xor(u32(seen[i]), m) != 0;
        }
        if (row[i].y < 0) continue;
        if (tx == 0) store_sums(x, row[i], top[i], sum[i], seen[i]);
#pragma unroll
        for (u32 e = 0; e < C * N; e++) store(x, row[i], b.column + e / N * 16 * N + tx * N + e % N, y[i][e], sum[i], seen[i]);
    }
}
"""


BUSY, SHORT = 256, 256  # blocks with which a GPU is busy; keys of a part at least
PART = 128  # of which a part of the keys is a multiple


def tiles(dtype: DType, size: int | None) -> Products:
    """Products by the cores for all, of heads of any size; `size` is that of the values if it is known."""
    each = 2 if dtype is F64 else 4
    columns = 16 * each * (1 if size is not None and size <= 16 * each else 2)
    return Products(
        "tiles",
        fill_in(_TILE_TEXT, TILE=each, COLUMNS=columns),
        ("__shared__ Numbers shared;", "if (x.cut) attend<1>(x, shared);", f"else attend<{each}>(x, shared);"),
        256,
        (16 * each, 16),
        columns,
        dtype.itemsize if dtype is F64 else 4,
        0,
        "Acc(1) / sqrt(Acc(x.depth))",
        lambda powers: ["return exp(v);"],
        _tile_cut,
    )


def _tile_cut(products: Products, pairs: int, rows: int, keys: int) -> tuple[int, int]:
    """Small tiles where there are few queries, or too few blocks for a GPU; so many parts of the keys that it is busy."""
    few = rows <= 32 or pairs * blocks_for(rows, products.rows[0]) < 64
    blocks = pairs * blocks_for(rows, products.rows[few])
    return int(few), max(1, min(BUSY // max(blocks, 1), keys // SHORT))
