"""The products of attention: texts of `attend`, which a frame precedes (attention.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...ir.types import F16, F64, DType
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


# Four warps share a block's keys and queries: each has 16 queries (64 >> x.cut are those of the block) and, of each stage of the
# keys, the chunks whose number says so. Scores of a chunk lie in a warp's registers as the weights must for the second product, so
# they never leave them (the weights are rounded to 16 bits). Stages are on their way to shared memory while others are worked
# on; what the warps have of the same queries is put together at the end, in order. Units of 16 bytes lie in shared memory where
# the 8 rows that ldmatrix reads at once are in different banks.
_TENSOR_TEXT = """
constexpr u32 SIZE = HEAD, UNITS = SIZE / 8, PITCH = 2 * SIZE, KEYS = STAGE_KEYS, CHUNK = 32, CHUNKS = KEYS / CHUNK;
constexpr u32 STEP = UNITS == 12 ? 8 : 128 / UNITS;  // rows that the block's threads bring at once
constexpr u32 PART = KEYS * PITCH, STAGE = 2 * PART, QUERIES = 2 * STAGE, SUMS = QUERIES + 64 * PITCH;
constexpr u32 APART = SIZE + 8;  // numbers from one row of a warp's results to the next: they lie in different banks

// Two neighbours of the mask; small ones in a word, which is taken apart where they are used: until then they may be on their way.
template <class M, bool word> struct Two {
    M at[2];
    __device__ __forceinline__ M get(u32 j) const { return at[j]; }
    __device__ __forceinline__ void set(u32 j, M m) { at[j] = m; }
    __device__ __forceinline__ void load(const M* from) { *this = *(const Two*)from; }
};
template <class M> struct Two<M, true> {
    u32 word;
    __device__ __forceinline__ M get(u32 j) const { return M(word >> 8 * sizeof(M) * j); }
    __device__ __forceinline__ void set(u32 j, M m) { word |= u32(m) << 8 * sizeof(M) * j; }
    __device__ __forceinline__ void load(const M* from) {
        if constexpr (sizeof(M) == 2) word = *(const u32*)from;
        else word = *(const u16*)from;
    }
};
using Masking = element_OF_MASK::Memory;
using Mask = Two<Masking, sizeof(Masking) <= 2>;

DEVICE u32 place(u32 row, u32 unit) { return row * PITCH + (unit ^ (UNITS % 8 ? row / 2 % 4 : row % 8)) * 16; }

DEVICE f32 inverse(f32 v) {
#ifdef GRAPHMILL_SHIM
    return 1 / v;
#else
    asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(v));
    return v;
#endif
}

// The unit of a row at address `from` to shared memory, of whose 8 numbers `there` are; the others are zeros.
DEVICE void bring_unit(unsigned char* to, i64 from, i32 there) {
#pragma unroll 1
    for (i32 j = 0; j < 8; j++) ((u16*)to)[j] = j < there ? ((const u16*)from)[j] : u16(0);
}

// Where a thread's unit of keys (values) stands: those from `count` on, `step` bytes apart, and those of the past before them.
struct Lines {
    i64 now, past;
    u32 step, size, count;
    __device__ __forceinline__ i64 at(u32 t) const { LINE }
};

// Keys (values) from t on to a stage, zeros from `end` on, of `size` numbers each. `wide`: by whole units, without waiting.
DEVICE void bring(unsigned char* to, const Lines& from, i32 t, i32 end, u32 size, bool wide) {
    const u32 line = threadIdx.x / UNITS, unit = threadIdx.x % UNITS;
    if (line >= STEP) return;
    const i32 there = i32(size - 8 * unit);
    t += line, to += place(line, unit);
    if (wide) {
        if (there <= 0) end = 0;
#pragma unroll
        for (u32 i = 0; i < KEYS / STEP; i++, t += STEP) copy_async<16>(to + i * STEP * PITCH, (const void*)from.at(t), t < end ? 16 : 0);
    } else {
#pragma unroll 1
        for (u32 i = 0; i < KEYS / STEP; i++, t += STEP) bring_unit(to + i * STEP * PITCH, from.at(t), t < end ? there : 0);
    }
}

// The keys that any of the block's rows may see.
DEVICE Range range_of(const Sizes& x, Place b, u32 rows) {
    u32 r = minimum(b.first + rows, x.rows) - 1, head = GROUPED ? b.first / x.queries : 0;
    bool one = !GROUPED || r / x.queries == head;  // head of queries
    return {range_of(x, b.n, one ? b.first - head * x.queries.d : 0).lo,
            range_of(x, b.n, one ? r - head * x.queries.d : x.queries.d - 1).hi};
}

// The mask of keys t, t + 1, t + 8, ... of two rows; `pairs`: two numbers at once.
DEVICE void read_mask(Mask (&mask)[2][CHUNK / 8], i64 from, const Row (&row)[2], i32 t, bool pairs) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        const Masking* at = (const Masking*)from + row[i].mask + t;
        const i32 there = row[i].seen.hi - t;
        if (pairs) {
#pragma unroll
            for (i32 j = 0; j < CHUNK / 8; j++)
                if (8 * j < there) mask[i][j].load(at + 8 * j);
        } else {
#pragma unroll
            for (i32 j = 0; j < CHUNK / 4; j++)
                if (j / 2 * 8 + j % 2 < there) mask[i][j / 2].set(j % 2, at[j / 2 * 8 + j % 2]);
        }
    }
}

// Scores of the keys from t on, of two rows, from products; `edge`: some of them may not be seen.
template <bool edge> DEVICE void to_scores(f32 (&s)[CHUNK / 8][4], const Mask (&mask)[2][CHUNK / 8], f32 scale, const Row (&row)[2],
                                           i32 t, bool (&any)[2]) {
#pragma unroll
    for (u32 i = 0; i < 2; i++)
#pragma unroll
        for (u32 j = 0; j < CHUNK / 4; j++) {
            i32 at = t + j / 2 * 8 + j % 2;
            bool out = edge & ((at < row[i].seen.lo) | (at >= row[i].seen.hi)), seen = false;
            f32 v = s[j / 2][2 * i + j % 2] * scale;
            const auto m = element_OF_MASK::decode(mask[i][j / 2].get(j % 2));
            SCORE
            any[i] |= seen & !out;
            s[j / 2][2 * i + j % 2] = out ? f32(-inf) : v;
        }
}

// Scores become weights; what was summed up before fades where a greater score is found.
DEVICE void to_weights(f32 (&s)[CHUNK / 8][4], f32 (&top)[2], f32 (&sum)[2], f32 (&y)[SIZE / 8][4]) {
    f32 fade[2];
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        f32 next = top[i];
#pragma unroll
        for (u32 j = 0; j < CHUNK / 4; j++) next = ::fmaxf(next, s[j / 2][2 * i + j % 2]);
        for (u32 m = 2; m; m /= 2) next = ::fmaxf(next, lane_xor(next, m));
        f32 base = next == f32(-inf) ? 0.f : next;
        fade[i] = weight(top[i] - base);
        top[i] = next;
        f32 more = 0;
#pragma unroll
        for (u32 j = 0; j < CHUNK / 4; j++) {
            f32& v = s[j / 2][2 * i + j % 2];
            v = weight(v - base);
            more += v;
        }
        sum[i] = sum[i] * fade[i] + more;
    }
    if (!__any_sync(~0u, fade[0] != 1 || fade[1] != 1)) return;
#pragma unroll
    for (u32 e = 0; e < SIZE / 8; e++)
#pragma unroll
        for (u32 r = 0; r < 4; r++) y[e][r] *= fade[r / 2];
}

// The queries of the block to shared memory.
DEVICE void bring_queries(const Sizes& x, Place b, unsigned char* memory, u32 rows, bool wide) {
    const u32 line = threadIdx.x / UNITS, unit = threadIdx.x % UNITS;
#pragma unroll 1
    for (u32 r = line; r < rows && line < STEP; r += STEP) {
        const i64 at = row_of(x, b, r).q, from = x.q + 2 * (at < 0 ? 0 : at) + 16 * unit;
        const i32 there = at < 0 ? 0 : i32(x.depth - 8 * unit);
        if (wide) copy_async<16>(memory + place(r, unit), (const void*)from, there > 0 ? 16 : 0);
        else bring_unit(memory + place(r, unit), from, there);
    }
}

// Puts together what the warps have of each row, and stores it.
DEVICE void finish(const Sizes& x, Place b, const unsigned char* memory, u32 rows, bool wide) {
    const u32 unit = threadIdx.x % UNITS;
    if (threadIdx.x / UNITS >= STEP || 8 * unit >= x.width) return;
#pragma unroll 1
    for (u32 r = threadIdx.x / UNITS; r < rows; r += STEP) {
        const Row row = row_of(x, b, r);
        if (row.y < 0) return;
        const u32 first = (r / 16 << x.cut) * 16 + r % 16;
        f32 top = -inf, sum = 0, y[8] = {};
        bool seen = false;
        const f32* sums = (const f32*)(memory + SUMS) + 3 * first;
#pragma unroll
        for (u32 w = 0; w < 4; w++)
            if (w >> x.cut == 0) top = ::fmaxf(top, sums[48 * w]);
        const f32 base = top == f32(-inf) ? 0.f : top;
#pragma unroll
        for (u32 w = 0; w < 4; w++)
            if (w >> x.cut == 0) {
                const f32 fade = weight(sums[48 * w] - base);
                const f32* part = (const f32*)memory + (first + 16 * w) * APART + 8 * unit;
                sum += fade * sums[48 * w + 1];
                seen = seen || sums[48 * w + 2] != 0;
#pragma unroll
                for (u32 e = 0; e < 8; e++) y[e] += fade * part[e];
            }
        if (x.splits.d > 1) {
            f32* at = x.sums() + 3 * row.part;
            if (unit == 0) at[0] = top, at[1] = sum, at[2] = seen;
#pragma unroll
            for (u32 e = 0; e < 8; e++)
                if (8 * unit + e < x.width) x.values()[row.part * x.width + 8 * unit + e] = y[e];
            continue;
        }
        const f32 by = inverse(sum);
        Pack<element_TYPE, 8> out;
#pragma unroll
        for (u32 e = 0; e < 8; e++) out.set(e, seen ? y[e] * by : 0.f);
        write_pack(x.y + 2 * row.y, 8 * unit, x.width, wide, out);
    }
}

DEVICE void attend(const Sizes& x, unsigned char* memory) {
    const u32 rows = 64 >> x.cut, lane = threadIdx.x % 32, octet = lane / 8;
    const u32 warp = threadIdx.x / 32, mine = warp & ((1 << x.cut) - 1), first = (warp >> x.cut) * 16;  // chunk, row
    const Place b = place_of(x, blockIdx.x, rows, SIZE);
    const bool wide = x.wide & 1 && ((ADDRESSES) & 15) == 0, pairs = x.wide & 2 && (MASK_AT & (2 * sizeof(Masking) - 1)) == 0;
    Range range = range_of(x, b, rows);
    keep_part(x, b, range.lo, range.hi);
    const i32 begin = range.lo / i32(CHUNK) * i32(CHUNK), end = range.hi;
    const u32 unit = threadIdx.x % UNITS;
    const Lines k = {x.k + (b.n * x.k_n + b.g * x.k_h) * 2 + 16 * unit, PAST_K + 16 * unit, 2 * x.k_s, 2 * x.depth, x.past};
    const Lines v = {x.v + (b.n * x.v_n + b.g * x.v_h) * 2 + 16 * unit, PAST_V + 16 * unit, 2 * x.v_s, 2 * x.width, x.past};
    const f32 scale = POWERS ? (SCALE) * 1.4426950408889634f : SCALE;
    Row row[2];
    u32 q[SIZE / 16][4] = {}, stage = 0;
    f32 top[2] = {-inf, -inf}, sum[2] = {}, y[SIZE / 8][4] = {};
    bool any[2] = {};
    // In each turn a stage is fetched, and the one before it worked on.
#pragma unroll 1
    for (i32 next = begin; next - i32(KEYS) < end; next += KEYS, stage ^= STAGE) {
        if (next < end) bring(memory + stage, k, next, end, x.depth, wide);
        if (next == begin) bring_queries(x, b, memory + QUERIES, rows, wide);
        copy_async_commit();
        if (next < end) bring(memory + stage + PART, v, next, end, x.width, wide);
        copy_async_commit();
        if (next == begin) {  // while they come
            row[0] = row_of(x, b, first + lane / 4), row[1] = row_of(x, b, first + lane / 4 + 8);
            continue;
        }
#pragma unroll 1
        for (u32 c = 0; c < CHUNKS >> x.cut; c++) {
            const u32 chunk = (c << x.cut | mine) * CHUNK;
            const i32 t0 = next - i32(KEYS) + i32(chunk), t = t0 + lane % 4 * 2;
            const bool is = t0 < end;  // of the warp
            Mask mask[2][CHUNK / 8] = {};
            if (MASKED) read_mask(mask, MASK_AT, row, t, pairs);
            if (c == 0) {
                copy_async_wait<3>();
                __syncthreads();
            }
            if (next == begin + i32(KEYS) && c == 0) {
#pragma unroll
                for (u32 k = 0; k < SIZE / 16; k++) ldmatrix_x4(q[k], memory + QUERIES + place(first + lane % 16, 2 * k + lane / 16));
            }
            f32 s[CHUNK / 8][4] = {};
            if (is) {
                const unsigned char* keys = memory + (stage ^ STAGE) + chunk * PITCH;
#pragma unroll
                for (u32 k = 0; k < SIZE / 16; k++)
#pragma unroll
                    for (u32 n = 0; n < CHUNK / 16; n++) {
                        u32 r[4];
                        ldmatrix_x4(r, keys + 16 * n * PITCH + place(octet / 2 * 8 + lane % 8, 2 * k + octet % 2));
                        const u32 left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
                        MULTIPLY(s[2 * n], q[k], left);
                        MULTIPLY(s[2 * n + 1], q[k], right);
                    }
                if (__any_sync(~0u, t0 < maximum(row[0].seen.lo, row[1].seen.lo) || t0 + i32(CHUNK) > minimum(row[0].seen.hi, row[1].seen.hi))) to_scores<true>(s, mask, scale, row, t, any);
                else to_scores<false>(s, mask, scale, row, t, any);
                to_weights(s, top, sum, y);
            }
            if (c == 0) {
                copy_async_wait<2>();
                __syncthreads();
            }
            if (is) {
                const unsigned char* values = memory + (stage ^ STAGE) + PART + chunk * PITCH;
#pragma unroll
                for (u32 k = 0; k < CHUNK / 16; k++) {
                    const u32 w[4] = {PACK(s[2 * k][0], s[2 * k][1]), PACK(s[2 * k][2], s[2 * k][3]),
                                      PACK(s[2 * k + 1][0], s[2 * k + 1][1]), PACK(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
                    for (u32 e = 0; e < SIZE / 16; e++) {
                        u32 r[4];
                        ldmatrix_x4_trans(r, values + 16 * k * PITCH + place(octet % 2 * 8 + lane % 8, 2 * e + octet / 2));
                        const u32 left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
                        MULTIPLY(y[2 * e], w, left);
                        MULTIPLY(y[2 * e + 1], w, right);
                    }
                }
            }
        }
        __syncthreads();  // nobody reads the stage
    }
    f32* results = (f32*)memory + (warp * 16 + lane / 4) * APART + lane % 4 * 2;
    f32* sums = (f32*)(memory + SUMS) + (warp * 16 + lane / 4) * 3;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        sum[i] = warp_sum<4>(sum[i]);
        const bool seen = MASKED ? __ballot_sync(~0u, any[i]) >> lane / 4 * 4 & 15 : row[i].seen.lo < row[i].seen.hi;
        if (lane % 4 == 0) sums[24 * i] = top[i], sums[24 * i + 1] = sum[i], sums[24 * i + 2] = seen;
#pragma unroll
        for (u32 e = 0; e < SIZE / 8; e++) {
            struct alignas(8) Two { f32 at[2]; };
            *(Two*)(results + 8 * i * APART + 8 * e) = {y[e][2 * i], y[e][2 * i + 1]};
        }
    }
    __syncthreads();
    finish(x, b, memory, rows, wide);
}
"""
MOST = 128  # numbers of a head that tensor cores serve: more would not fit the registers
MULTIPROCESSORS = 132  # of the GPU that work is cut for
# Cycles, estimated: what a block costs once; of a second pass; of a chunk of 32 keys, alone and where warps take turns.
ONCE, COMBINE, CHUNK_ALONE, CHUNK_SHARED = 1800, 2500, 400, 230
BYTES = 50  # that a multiprocessor reads in a cycle


def tensor_cores(dtype: DType, size: int) -> Products:
    """Products of 16-bit floats, of heads of up to `size` numbers, on tensor cores."""
    head = -(-size // 32) * 32
    keys = 128 if head <= 64 else 64
    multiply, pack = ("mma_f16", "floats_to_halves") if dtype is F16 else ("mma_bf16", "floats_to_bfloats")
    text = fill_in(_TENSOR_TEXT, HEAD=head, STAGE_KEYS=keys, MULTIPLY=multiply, PACK=pack)
    rows = (64, 32, 16)[: 3 if keys == 128 else 2]
    shared = 8 * keys * head + 64 * 2 * head + 64 * 3 * 4
    return Products(
        "tensor cores",
        text,
        ("attend(x, SHARED(unsigned char));",),
        128,
        rows,
        head,
        4,
        shared,
        "bits_to_float(x.scale)",
        _power,
        _tensor_cut,
    )


def _power(powers: bool) -> list[str]:
    """By the special function unit: exact to 2 units in the last place, of weights that are rounded to 16 bits."""
    scaled = [] if powers else ["v *= 1.4426950408889634f;"]
    return [*scaled, "#ifdef GRAPHMILL_SHIM", "return ::exp2f(v);", "#else", 'asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(v));',
            "return v;", "#endif"]  # fmt: skip


def _tensor_cut(products: Products, pairs: int, rows: int, keys: int) -> tuple[int, int]:
    """What the cycles of each way say: few rows in a block make many blocks, whose warps share the keys; but each block reads all
    of them."""
    best = None
    for cut, height in enumerate(products.rows):
        blocks = pairs * blocks_for(rows, height)
        for splits in (1, 2, 4, 8, 16, 32):
            if splits > 1 and keys < splits * SHORT:
                break
            part, turns = blocks_for(keys, splits), blocks_for(blocks * splits, MULTIPROCESSORS)
            chunks = blocks_for(part, 32 << cut)
            work = max(chunks * CHUNK_ALONE, turns * chunks * CHUNK_SHARED)
            left = pairs * rows * splits * products.columns * 8  # bytes that parts leave and the second pass reads
            cycles = ONCE + max(turns * part * products.columns * 4 // BYTES, work)
            cycles += (COMBINE + left // (BYTES * MULTIPROCESSORS // 2)) * (splits > 1)
            if best is None or cycles < best[0]:
                best = cycles, cut, splits
    return best[1:] if best else (0, 1)
