"""The products of attention: texts of `attend`, which a frame precedes (attention.py)."""

from __future__ import annotations

TILE_THREADS = 256
# Threads stand 16 by 16. A tile is R * 16 queries by N * 16 keys; a thread has R by N scores of it, and R rows by COLUMNS / 16
# columns of the result, read from shared memory in vectors. Operands lie there with the reduced axis first: a warp loads 4 rows by
# 8 neighbours (whole sectors of 32 bytes), and rows of 16 * N + 4 numbers put the 32 of them into different banks.
TILE_TEXT = """
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
#pragma unroll
        for (u32 e = 0; e < C * N; e++) {
            u32 column = b.column + e / N * 16 * N + tx * N + e % N;
            if (column < x.width) st_TYPE(x.y, row[i].y + column, seen[i] ? y[i][e] / sum[i] : Acc(0));
        }
    }
}
"""
