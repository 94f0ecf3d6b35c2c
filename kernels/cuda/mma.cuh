// Products by the tensor cores, in tiles of 128 bytes of the reduction a part: f16 and bf16 (m16n8k16) and f32 rounded to tf32
// (m16n8k8), summed up in f32; bytes (m16n8k32), summed up in i32. Loaders, sums and their way out are those of tile.cuh.
//
// Parts come by asynchronous copies of 16 bytes into one of several buffers, all but one of them ahead of the product, so that the
// latency of memory is hidden without registers; bytes also come by 8 and 4; where numbers do not lie so (`wide` false), threads gather
// them one by one.
// In shared memory a row of A lies along the reduction, 128 bytes long, B likewise; operands whose neighbours are not along the
// reduction lie as lines of rows (columns), and ldmatrix transposes them, of 16-bit numbers; threads read the numbers of tf32 one
// by one; bytes all lie along the reduction. The chunks of 16 bytes of a line are exchanged by its number (`swizzle`), so that all of that is without conflicts of banks.
//
// Small tiles would leave warps idle: there the warps stand in groups, each of which takes every so many steps of a part, and the
// groups' sums are added up in order on their way out.
constexpr int PART_BYTES = 128, STEP_BYTES = 32, BUFFERS_BYTES = 96 << 10, MOST_STAGES = 8;

struct MmaF16 {
    using Sum = f32;
    static constexpr bool TOTALS = false, words = false;
    static __device__ __forceinline__ void multiply(f32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_f16(c, a, b); }
};
struct MmaBf16 {
    using Sum = f32;
    static constexpr bool TOTALS = false, words = false;
    static __device__ __forceinline__ void multiply(f32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_bf16(c, a, b); }
};
struct MmaTf32 {
    using Sum = f32;
    static constexpr bool TOTALS = false, words = true;
    static __device__ __forceinline__ void multiply(f32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        u32 x[4], y[2];
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = float_to_tf32(bits_to_float(a[i]));
#pragma unroll
        for (int i = 0; i < 2; i++) y[i] = float_to_tf32(bits_to_float(b[i]));
        mma_tf32(c, x, y);
    }
};
// Bytes of two signs. With `shifted` the numbers of a column of B are meant less one more number, its shift, which the sums of A's rows
// (TOTALS, a product with ones) take off in the end.
template <bool signed_a, bool signed_b, bool shifted> struct MmaBytes {
    using Sum = i32;
    static constexpr bool TOTALS = shifted, words = false;
    static __device__ __forceinline__ void multiply(i32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        if constexpr (signed_a && signed_b) mma_s8s8(c, a, b);
        else if constexpr (signed_a) mma_s8u8(c, a, b);
        else if constexpr (signed_b) mma_u8s8(c, a, b);
        else mma_u8u8(c, a, b);
    }
    static __device__ __forceinline__ void total(i32 (&c)[4], const u32 (&a)[4]) {
        const u32 ones[2] = {0x01010101u, 0x01010101u};
        multiply(c, a, ones);
    }
};

// A place in a buffer, for asynchronous copies and for all else.
struct Buffer {
    Spot spot;
    unsigned char* bytes;
    __device__ __forceinline__ Buffer operator+(u32 n) const { return {spot + n, bytes + n}; }
};

// What brings parts of an operand of SIDE rows or columns to shared memory. QUICK: its numbers lie as chunks of 16 bytes that are
// wholly inside or outside, and those of a regular operand fill whole parts; then little has to be looked at.
template <class Source, int SIDE> struct Feeder {
    using E = typename Source::Element;
    using M = typename E::Memory;
    static constexpr bool ALONG = Source::ALONG;
    static_assert(ALONG || sizeof(M) > 1, "bytes lie along the reduction");
    static constexpr int WIDE = 16 / sizeof(M), STEPS = PART_BYTES / sizeof(M), BYTES = SIDE * PART_BYTES;
    static constexpr int ACROSS = ALONG ? PART_BYTES / 16 : SIDE / WIDE;  // chunks of 16 bytes in a line
    static constexpr int PITCH = ACROSS * 16, COUNT = BYTES / 16 / BLOCK, STRIDE = BLOCK / ACROSS;
    static constexpr int PLACES = ALONG && !Source::REGULAR ? COUNT : 1;
    const Source& source;
    const bool wide;
    typename Source::Place places[PLACES];
    u32 first, line, chunk, at;  // of the side; of this thread's first chunk: its line, which of the line's, and where it lies
    const M* start;  // of a regular operand: where that chunk begins, and how many lines or numbers of it are inside
    u32 inside;

    __device__ __forceinline__ Feeder(const Source& s, bool wide, u32 first) : source(s), wide(wide), first(first) {
        line = threadIdx.x / ACROSS, chunk = threadIdx.x % ACROSS, at = swizzle(line, chunk);
        const u32 begin = first + (ALONG ? line : chunk * WIDE);
#pragma unroll
        for (int i = 0; i < PLACES; i++) places[i] = s.place(begin + i * STRIDE);
        if constexpr (Source::REGULAR) {
            start = s.at + (ALONG ? begin * s.side_step + chunk * WIDE : begin + line * s.depth_step);
            inside = begin < s.sides ? s.sides - begin : 0;
        }
    }
    __device__ __forceinline__ typename Source::Place place(int i) const {
        if constexpr (ALONG && Source::REGULAR) return source.place(first + line + i * STRIDE);
        else return places[ALONG ? i : 0];
    }
    // Where a chunk of a line lies. Lines that ldmatrix, or a warp that reads number by number, sees at once differ in their banks.
    static __device__ __forceinline__ u32 swizzle(u32 line, u32 chunk) {
        const u32 key = ACROSS < 8 ? line / 2 % 4 : !ALONG && sizeof(M) == 4 ? line % 4 * 2 : line % 8;
        return line * PITCH + (chunk ^ key) * 16;
    }
    __device__ __forceinline__ bool quick(u32 depths) const {
        if constexpr (Source::REGULAR) return wide && depths % STEPS == 0 && (ALONG || source.sides % WIDE == 0);
        else return wide;
    }
    // Begins to copy `valid` bytes of so many; what is wholly outside is stored as it counts there.
    template <int bytes> __device__ __forceinline__ void copy(Buffer to, const M* where, u32 valid, const typename Source::Depth& depth) const {
        if constexpr (Source::FILLED)
            if (!valid) {
                const u32 four = u32(source.fill(depth) & 255) * 0x01010101u;
#pragma unroll
                for (int w = 0; w < bytes / 4; w++) ((u32*)to.bytes)[w] = four;
                return;
            }
        copy_async<bytes>(to.spot, where, int(valid));
    }
    template <bool QUICK> __device__ __forceinline__ void feed(Buffer part, u32 from) const {
        const Buffer to = part + at;
        if constexpr (QUICK && Source::REGULAR) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const M* where = start + (ALONG ? from + i * STRIDE * source.side_step : (from + i * STRIDE) * source.depth_step);
                copy_async<16>(to.spot + i * STRIDE * PITCH, where, u32(ALONG ? i * STRIDE : 0) < inside ? 16 : 0);
            }
        } else if ((QUICK || wide) && Source::GRAIN < 16) {  // of bytes, which lie along the reduction
#pragma unroll
            for (u32 j = 0; j < 16; j += Source::GRAIN) {
                auto depth = source.depth(from + chunk * WIDE + j);
#pragma unroll
                for (int i = 0; i < COUNT; i++) {
                    u32 valid;
                    const M* where = source.chunk(place(i), depth, valid);
                    copy<Source::GRAIN>(to + (i * STRIDE * PITCH + j), where, min(valid, Source::GRAIN), depth);
                }
            }
        } else if (QUICK || wide) {
            auto depth = source.depth(from + (ALONG ? chunk * WIDE : line));
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                u32 valid;
                if (!ALONG && i) depth = source.depth(from + line + i * STRIDE);
                const M* where = source.chunk(place(i), depth, valid);
                copy<16>(to + i * STRIDE * PITCH, where, valid * sizeof(M), depth);
            }
        } else if constexpr (sizeof(M) == 1) {
#pragma unroll 1
            for (int j = 0; j < WIDE; j++) {
                auto depth = source.depth(from + chunk * WIDE + j);
#pragma unroll
                for (int i = 0; i < COUNT; i++) *(M*)(to.bytes + i * STRIDE * PITCH + j) = E::encode(source.get(place(i), depth));
            }
        } else if constexpr (ALONG) {
            constexpr int AT_ONCE = COUNT < 2 ? 1 : 2;
#pragma unroll
            for (int i = 0; i < COUNT; i += AT_ONCE) {
                Pack<E, WIDE> held[AT_ONCE];
#pragma unroll
                for (int j = 0; j < WIDE; j++) {
                    auto depth = source.depth(from + chunk * WIDE + j);
#pragma unroll
                    for (int h = 0; h < AT_ONCE; h++) held[h].set(j, source.get(place(i + h), depth));
                }
#pragma unroll
                for (int h = 0; h < AT_ONCE; h++) *(Pack<E, WIDE>*)(to.bytes + (i + h) * STRIDE * PITCH) = held[h];
            }
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                auto depth = source.depth(from + line + i * STRIDE);
                Pack<E, WIDE> held;
#pragma unroll
                for (int j = 0; j < WIDE; j++) held.set(j, source.get(source.place(first + chunk * WIDE + j), depth));
                *(Pack<E, WIDE>*)(to.bytes + i * STRIDE * PITCH) = held;
            }
        }
    }
};

// How 8 warps share a tile: WIDE * 8 columns each of so many rows (TALL * 16), in GROUPS that share the steps of a part.
template <int ROWS, int COLUMNS> struct Shares {
    static constexpr int WIDE = 4, TALL = ROWS * COLUMNS == 128 * 128 ? 4 : ROWS == 32 && COLUMNS == 32 ? 1 : 2;
    static constexpr int ACROSS = COLUMNS / (WIDE * 8), DOWN = ROWS / (TALL * 16), GROUPS = BLOCK / 32 / (ACROSS * DOWN);
    static constexpr int STEPS = PART_BYTES / STEP_BYTES / GROUPS;  // of a part, for a group
    static constexpr int FITTING = BUFFERS_BYTES / ((ROWS + COLUMNS) * PART_BYTES), STAGES = FITTING < MOST_STAGES ? FITTING : MOST_STAGES;
};

// Adds the products of step k (32 bytes of the reduction) of a part to a warp's sums.
template <class Mma, class FeedA, class FeedB, int TALL, int WIDE>
DEVICE void multiply_step(typename Mma::Sum (&sums)[TALL][WIDE][4], typename Mma::Sum (&totals)[TALL][4], Buffer a, Buffer b, u32 row, u32 column, u32 k, u32 lane) {
    u32 x[TALL][4], y[WIDE][2];
#pragma unroll
    for (int i = 0; i < TALL; i++) {
        const u32 m = row + i * 16;
        if constexpr (FeedA::ALONG) {
            ldmatrix_x4(x[i], a.spot + FeedA::swizzle(m + lane % 16, k * 2 + lane / 16));
        } else if constexpr (!Mma::words) {
            ldmatrix_x4_trans(x[i], a.spot + FeedA::swizzle(k * 16 + lane / 16 * 8 + lane % 8, m / 8 + lane / 8 % 2));
        } else {
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const u32 side = m + lane / 4 + r % 2 * 8;
                x[i][r] = *(const u32*)(a.bytes + FeedA::swizzle(k * 8 + lane % 4 + r / 2 * 4, side / 4) + side % 4 * 4);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < WIDE; j += 2) {
        const u32 n = column + j * 8;
        if constexpr (FeedB::ALONG || !Mma::words) {
            u32 both[4];
            if constexpr (FeedB::ALONG)
                ldmatrix_x4(both, b.spot + FeedB::swizzle(n + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
            else
                ldmatrix_x4_trans(both, b.spot + FeedB::swizzle(k * 16 + lane % 16, n / 8 + lane / 16));
            y[j][0] = both[0], y[j][1] = both[1], y[j + 1][0] = both[2], y[j + 1][1] = both[3];
        } else {
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const u32 side = n + r / 2 * 8 + lane / 4;
                y[j + r / 2][r % 2] = *(const u32*)(b.bytes + FeedB::swizzle(k * 8 + lane % 4 + r % 2 * 4, side / 4) + side % 4 * 4);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < TALL; i++) {
#pragma unroll
        for (int j = 0; j < WIDE; j++) Mma::multiply(sums[i][j], x[i], y[j]);
        if constexpr (Mma::TOTALS) Mma::total(totals[i], x[i]);
    }
}

// The sums of a warp over `steps` parts from `from` on.
template <bool QUICK, class Mma, int STAGES, int STEPS, class FeedA, class FeedB, int TALL, int WIDE>
DEVICE void multiply_parts(typename Mma::Sum (&sums)[TALL][WIDE][4], typename Mma::Sum (&totals)[TALL][4], const FeedA& a, const FeedB& b, Buffer memory,
                           u32 from, u32 steps, u32 row, u32 column, u32 first) {
    constexpr u32 STAGE = FeedA::BYTES + FeedB::BYTES;
    const u32 lane = threadIdx.x % 32;
    u32 now = 0, next = 0;  // buffers, in bytes: whose part is multiplied, which is filled
#pragma unroll 1
    for (u32 s = 0; s < steps + STAGES - 1; s++) {
        if (s >= STAGES - 1) {  // first, so that what the next part needs is counted out while the tensor cores work
            copy_async_wait<STAGES - 2>();
            __syncthreads();
            const Buffer at_a = memory + now, at_b = at_a + FeedA::BYTES;
#pragma unroll
            for (u32 i = 0; i < STEPS; i++) multiply_step<Mma, FeedA, FeedB>(sums, totals, at_a, at_b, row, column, first + i, lane);
            now = now == (STAGES - 1) * STAGE ? 0 : now + STAGE;
        }
        if (s < steps) {
            a.template feed<QUICK>(memory + next, from + s * FeedA::STEPS);
            b.template feed<QUICK>(memory + (next + FeedA::BYTES), from + s * FeedA::STEPS);
            next = next == (STAGES - 1) * STAGE ? 0 : next + STAGE;
        }
        copy_async_commit();
    }
    copy_async_wait<0>();
    __syncthreads();
}

// As `tile`, of `from` and `steps` in parts; the reduction has `depths` steps in all.
template <class Mma, int ROWS, int COLUMNS, bool down, class A, class B, class Out>
DEVICE void mma_tile(const A& left, const B& right, bool wide_a, bool wide_b, u32 row, u32 column, u32 depths, u32 from, u32 steps,
                     typename Mma::Sum* shared, const Out& out) {
    using S = typename Mma::Sum;
    using FeedA = Feeder<A, ROWS>;
    using FeedB = Feeder<B, COLUMNS>;
    using Share = Shares<ROWS, COLUMNS>;
    constexpr int TALL = Share::TALL, WIDE = Share::WIDE, STAGES = Share::STAGES, STEPS = Share::STEPS;
    const FeedA a(left, wide_a, row);
    const FeedB b(right, wide_b, column);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / (Share::ACROSS * Share::DOWN);
    const u32 warp_row = warp / Share::ACROSS % Share::DOWN * (TALL * 16), warp_column = warp % Share::ACROSS * (WIDE * 8);
    const Buffer memory = {spot_of(shared), (unsigned char*)shared};
    S sums[TALL][WIDE][4] = {}, totals[TALL][4] = {};
    typename Out::Fetched fetched[Out::template Turns<ROWS, COLUMNS>::AT_ONCE];
    out.template ahead<ROWS, COLUMNS>(row, column, fetched);
    if (a.quick(depths) && b.quick(depths))
        multiply_parts<true, Mma, STAGES, STEPS>(sums, totals, a, b, memory, from, steps, warp_row, warp_column, group * STEPS);
    else
        multiply_parts<false, Mma, STAGES, STEPS>(sums, totals, a, b, memory, from, steps, warp_row, warp_column, group * STEPS);
    if constexpr (Mma::TOTALS)
#pragma unroll
        for (int j = 0; j < WIDE * 2; j++) {
            const S shift = right.shift(column + warp_column + j / 2 * 8 + lane % 4 * 2 + j % 2);
#pragma unroll
            for (int i = 0; i < TALL; i++)
#pragma unroll
                for (int r = j % 2; r < 4; r += 2) sums[i][j / 2][r] = sub(sums[i][j / 2][r], mul(shift, totals[i][r]));
        }
    constexpr int PITCH = down ? ROWS + 4 : COLUMNS + 8;  // all banks, for what the threads of a warp write at once
    S* const slab = shared + group * ((down ? COLUMNS : ROWS) * PITCH);
#pragma unroll
    for (int i = 0; i < TALL; i++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                u32 m = warp_row + i * 16 + lane / 4 + r / 2 * 8, n = warp_column + j * 8 + lane % 4 * 2 + r % 2;
                slab[down ? n * PITCH + m : m * PITCH + n] = sums[i][j][r];
            }
    __syncthreads();
    out.template take<ROWS, COLUMNS, PITCH, Share::GROUPS>(shared, row, column, fetched);
}
