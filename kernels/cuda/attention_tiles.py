"""The products of attention: texts of `attend`, which a frame precedes (attention.py)."""

from __future__ import annotations

from typing import NamedTuple

from ...ir.types import F16, F64, DType
from ..operands import fill_in


class Products(NamedTuple):
    """A text of `attend`, the lines that call it, and the tile of a block: rows (`small` where it takes the smaller one) and
    columns of values."""

    text: str
    run: tuple[str, ...]
    threads: int
    rows: int
    small: int
    columns: int
    size: int  # bytes of a number
    shared: int = 0  # bytes of dynamic shared memory


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
        if (row[i].lo < row[i].hi) begin = minimum(begin, row[i].lo), end = maximum(end, row[i].hi);
        top[i] = -inf, sum[i] = 0, seen[i] = false;
        for (u32 e = 0; e < C * N; e++) y[i][e] = 0;
    }
    begin = block_min<256>(begin) / i32(KEYS) * KEYS, end = block_max<256>(end);
    keep_part(x, b, KEYS, begin, end);
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


def tiles(dtype: DType, size: int | None) -> Products:
    """Products by the cores for all, of heads of any size; `size` is that of the values if it is known."""
    each = 2 if dtype is F64 else 4
    columns = 16 * each * (1 if size is not None and size <= 16 * each else 2)
    run = ("__shared__ Numbers shared;", "if (x.few) attend<1>(x, shared);", f"else attend<{each}>(x, shared);")
    return Products(
        fill_in(_TILE_TEXT.replace("TYPE", str(dtype)), TILE=each, COLUMNS=columns),
        run,
        256,
        16 * each,
        16,
        columns,
        dtype.itemsize if dtype is F64 else 4,
    )


# A warp has 16 queries and all keys and columns of a tile. The scores of a tile lie in its registers as the weights must for the
# second product, so they never leave them (the weights are rounded to 16 bits). While a tile is worked on, the next one is on its
# way to shared memory, where rows have 16 bytes more than a multiple of 128: the 8 that ldmatrix reads at once lie in different
# banks.
_TENSOR_TEXT = """
constexpr u32 PITCH = WIDTH + 8, KEYS = 64, ROWS = 64;
struct alignas(16) Halves { u16 keys[2][KEYS * PITCH], values[2][KEYS * PITCH]; };

// Rows t0 .. t0 + KEYS - 1, of `size` numbers each from the address find(t) on, zeros behind the last one; nothing from `end` on.
// A group of copies in any case, so that all can be counted.
template <class F> DEVICE void fetch(const Sizes& x, u16* to, u32 size, i32 t0, i32 end, bool aligned, F find) {
    for (u32 i = threadIdx.x; t0 < end && i < KEYS * (WIDTH / 8); i += 128) {
        u32 t = i / (WIDTH / 8), e = i % (WIDTH / 8) * 8;
        u16* at = to + t * PITCH + e;
        u32 there = t0 + t < x.keys && e < size ? minimum(size - e, 8u) : 0;
        const u16* from = (const u16*)(there ? find(t0 + t) + 2 * e : x.k);
        if (aligned) copy_async<16>(at, from, 2 * there);
        else
            for (u32 j = 0; j < 8; j++) at[j] = j < there ? from[j] : 0;
    }
    copy_async_commit();
}

DEVICE u32 both(f32 low, f32 high) { return element_TYPE::encode(low) | u32(element_TYPE::encode(high)) << 16; }

DEVICE void attend(const Sizes& x, Halves& shared) {
    Place b = place_of(x, blockIdx.x, ROWS, WIDTH);
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4 * 2, octet = lane / 8;
    Row row[2] = {row_of(x, b, warp * 16 + lane / 4), row_of(x, b, warp * 16 + lane / 4 + 8)};
    i32 begin = x.keys, end = 0;
#pragma unroll
    for (u32 i = 0; i < 2; i++)
        if (row[i].lo < row[i].hi) begin = minimum(begin, row[i].lo), end = maximum(end, row[i].hi);
    begin = block_min<128>(begin) / i32(KEYS) * KEYS, end = block_max<128>(end);
    keep_part(x, b, KEYS, begin, end);
    i64 steps = x.k_n | x.k_h | x.k_s | x.v_n | x.v_h | x.v_s | x.depth | x.width;
    bool aligned = ((ADDRESSES) & 15) == 0 && (steps & 7) == 0;
    auto keys = [&](u32 t) { return key_of(x, b, t); };
    auto values = [&](u32 t) { return value_of(x, b, t); };
    fetch(x, shared.keys[0], x.depth, begin, end, aligned, keys);
    fetch(x, shared.values[0], x.width, begin, end, aligned, values);
    fetch(x, shared.keys[1], x.depth, begin + KEYS, end, aligned, keys);
    u32 q[WIDTH / 16][4];
#pragma unroll
    for (u32 k = 0; k < WIDTH / 16; k++)
#pragma unroll
        for (u32 r = 0; r < 4; r++) {
            u32 d = 16 * k + pair + 8 * (r / 2);
            const u16* from = (const u16*)x.q + row[r % 2].q;
            u16 low = row[r % 2].q >= 0 && d < x.depth ? from[d] : 0, high = row[r % 2].q >= 0 && d + 1 < x.depth ? from[d + 1] : 0;
            q[k][r] = low | u32(high) << 16;
        }
    f32 top[2] = {-inf, -inf}, sum[2] = {}, y[WIDTH / 8][4] = {};
    bool seen[2] = {};
    u32 half = 0;
    for (i32 t0 = begin; t0 < end; t0 += KEYS, half ^= 1) {
        copy_async_wait<2>();
        __syncthreads();  // the keys are there, and nobody reads the values of the tile before
        fetch(x, shared.values[half ^ 1], x.width, t0 + KEYS, end, aligned, values);
        f32 s[KEYS / 8][4] = {};
#pragma unroll
        for (u32 k = 0; k < WIDTH / 16; k++) {
            if (16 * k >= x.depth) break;
#pragma unroll
            for (u32 n = 0; n < KEYS / 16; n++) {
                u32 r[4];
                ldmatrix_x4(r, shared.keys[half] + (16 * n + octet / 2 * 8 + lane % 8) * PITCH + 16 * k + octet % 2 * 8);
                u32 first[2] = {r[0], r[1]}, second[2] = {r[2], r[3]};
                MULTIPLY(s[2 * n], q[k], first);
                MULTIPLY(s[2 * n + 1], q[k], second);
            }
        }
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            f32 next = top[i];
#pragma unroll
            for (u32 j = 0; j < KEYS / 4; j++) {
                f32& v = s[j / 2][2 * i + j % 2];
                v = score(x, row[i], t0 + j / 2 * 8 + pair + j % 2, v, seen[i]);
                next = v > next ? v : next;  // a NaN is found by the sum
            }
            for (u32 m = 2; m; m /= 2) {
                f32 other = lane_xor(next, m);
                next = other > next ? other : next;
            }
            f32 fade = next == f32(-inf) ? 1.f : exp(top[i] - next);
            top[i] = next;
            sum[i] *= fade;
#pragma unroll
            for (u32 e = 0; e < WIDTH / 8; e++) y[e][2 * i] *= fade, y[e][2 * i + 1] *= fade;
#pragma unroll
            for (u32 j = 0; j < KEYS / 4; j++) {
                f32& v = s[j / 2][2 * i + j % 2];
                v = v == f32(-inf) ? 0.f : exp(v - next);
                sum[i] += v;
            }
        }
        copy_async_wait<2>();
        __syncthreads();  // the values are there, and nobody reads the keys
        fetch(x, shared.keys[half], x.depth, t0 + 2 * KEYS, end, aligned, keys);
#pragma unroll
        for (u32 k = 0; k < KEYS / 16; k++) {
            u32 w[4] = {both(s[2 * k][0], s[2 * k][1]), both(s[2 * k][2], s[2 * k][3]),
                        both(s[2 * k + 1][0], s[2 * k + 1][1]), both(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
            for (u32 e = 0; e < WIDTH / 16; e++) {
                if (16 * e >= x.width) break;
                u32 r[4];
                ldmatrix_x4_trans(r, shared.values[half] + (16 * k + octet % 2 * 8 + lane % 8) * PITCH + 16 * e + octet / 2 * 8);
                u32 first[2] = {r[0], r[1]}, second[2] = {r[2], r[3]};
                MULTIPLY(y[2 * e], w, first);
                MULTIPLY(y[2 * e + 1], w, second);
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        for (u32 m = 2; m; m /= 2) {
            sum[i] += lane_xor(sum[i], m);
            seen[i] |= lane_xor(u32(seen[i]), m) != 0;
        }
        if (row[i].y < 0) continue;
        if (pair == 0) store_sums(x, row[i], top[i], sum[i], seen[i]);
#pragma unroll
        for (u32 j = 0; j < WIDTH / 4; j++) store(x, row[i], j / 2 * 8 + pair + j % 2, y[j / 2][2 * i + j % 2], sum[i], seen[i]);
    }
}
"""
MOST = 128  # numbers of a head that tensor cores serve: more would not fit the registers


def tensor_cores(dtype: DType, size: int, operands: tuple[str, ...]) -> Products:
    """Products of 16-bit floats, of heads of up to `size` numbers, on tensor cores. `operands` hold keys and values."""
    width = 64 if size <= 64 else MOST
    words = {"WIDTH": width, "MULTIPLY": "mma_f16" if dtype is F16 else "mma_bf16",
             "ADDRESSES": " | ".join(f"x.{name}" for name in operands)}  # fmt: skip
    text = fill_in(_TENSOR_TEXT.replace("TYPE", str(dtype)), **words)
    return Products(text, ("attend(x, *SHARED(Halves));",), 128, 64, 64, width, 4, shared=4 * 64 * (width + 8) * 2)
