// Products by the tensor cores, in tiles of 64 bytes of the reduction a part: f16 and bf16 (m16n8k16) and f32 rounded to tf32
// (m16n8k8), summed up in f32. Loaders, sums and their way out are those of tile.cuh.
//
// Parts come by asynchronous copies of 16 bytes into one of STAGES buffers, STAGES - 1 ahead of the product, so that the latency of
// memory is hidden without registers; where numbers do not lie so (`wide` false), threads gather them one by one.
// In shared memory a row of A has its 64 bytes of the reduction, 80 bytes apart: eight rows' 16 bytes, which ldmatrix reads at once,
// then fall on all banks. B lies likewise. Operands whose neighbours are not along the reduction lie as lines of rows (columns), 16
// bytes (tf32: 32) longer than they are: ldmatrix transposes them, of 16-bit numbers; threads read the numbers of tf32 one by one.
// All of that is without conflicts of banks.
constexpr int STAGES = 3, LINE_BYTES = 80, PART_BYTES = 64;

struct MmaF16 {
    static constexpr bool words = false;
    static __device__ __forceinline__ void multiply(f32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_f16(c, a, b); }
};
struct MmaBf16 {
    static constexpr bool words = false;
    static __device__ __forceinline__ void multiply(f32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) { mma_bf16(c, a, b); }
};
struct MmaTf32 {
    static constexpr bool words = true;
    static __device__ __forceinline__ void multiply(f32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        u32 x[4], y[2];
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = float_to_tf32(bits_to_float(a[i]));
#pragma unroll
        for (int i = 0; i < 2; i++) y[i] = float_to_tf32(bits_to_float(b[i]));
        mma_tf32(c, x, y);
    }
};

// What brings parts of an operand of SIDE rows or columns to shared memory.
template <class Source, class E, int SIDE> struct Feeder {
    using M = typename E::Memory;
    static constexpr bool ALONG = Source::ALONG;
    static constexpr int WIDE = 16 / sizeof(M), STEPS = PART_BYTES / sizeof(M);
    static constexpr int ACROSS = ALONG ? 4 : SIDE / WIDE;  // chunks of 16 bytes in a line
    static constexpr int COUNT = SIDE * PART_BYTES / 16 / BLOCK, PLACES = ALONG ? COUNT : 1, STRIDE = BLOCK / ACROSS;
    static constexpr int PITCH = ALONG ? LINE_BYTES : SIDE * int(sizeof(M)) + (sizeof(M) == 4 ? 32 : 16);
    static constexpr int BYTES = PITCH * (ALONG ? SIDE : STEPS);
    const Source& source;
    const bool wide;
    typename Source::Place places[PLACES];
    u32 first, line, chunk;  // of the side; of this thread's first chunk: its line, and which of the line's

    __device__ __forceinline__ Feeder(const Source& s, bool wide, u32 first) : source(s), wide(wide), first(first) {
        line = threadIdx.x / ACROSS, chunk = threadIdx.x % ACROSS;
#pragma unroll
        for (int i = 0; i < PLACES; i++) places[i] = s.place(first + (ALONG ? line + i * STRIDE : chunk * WIDE));
    }
    __device__ __forceinline__ void feed(unsigned char* part, u32 from) const {
        unsigned char* to = part + line * PITCH + chunk * 16;
        if (wide) {
            auto depth = source.depth(from + (ALONG ? chunk * WIDE : line));
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                u32 valid;
                if (!ALONG && i) depth = source.depth(from + line + i * STRIDE);
                const M* at = source.chunk(places[ALONG ? i : 0], depth, valid);
                copy_async<16>(to + i * STRIDE * PITCH, at, int(valid * sizeof(M)));
            }
            return;
        }
#pragma unroll 2
        for (int i = 0; i < COUNT * WIDE; i++) {
            u32 l = line + i / WIDE * STRIDE, c = chunk * WIDE + i % WIDE;
            typename Source::Sum x = source.get(source.place(first + (ALONG ? l : c)), source.depth(from + (ALONG ? c : l)));
            ((M*)(part + l * PITCH))[c] = E::encode(x);
        }
    }
};

// As `tile`, of `from` and `steps` in parts of 64 bytes. 2 x 4 warps share the tile.
template <class Mma, class E, int ROWS, int COLUMNS, bool down, class A, class B, class Done>
DEVICE void mma_tile(const A& left, const B& right, bool wide_a, bool wide_b, u32 row, u32 column, u32 from, u32 steps, f32* shared,
                     const Done& done) {
    using FeedA = Feeder<A, E, ROWS>;
    using FeedB = Feeder<B, E, COLUMNS>;
    constexpr int TALL = ROWS / 32, WIDE = COLUMNS / 32, STAGE = FeedA::BYTES + FeedB::BYTES;  // 16 x 8 products of a warp
    const FeedA a(left, wide_a, row);
    const FeedB b(right, wide_b, column);
    unsigned char* const memory = (unsigned char*)shared;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_row = warp / 4 * (ROWS / 2), warp_column = warp % 4 * (COLUMNS / 4);
    f32 sums[TALL][WIDE][4] = {};
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            a.feed(memory + s * STAGE, from + s * FeedA::STEPS);
            b.feed(memory + s * STAGE + FeedA::BYTES, from + s * FeedA::STEPS);
        }
        copy_async_commit();
    }
    u32 now = 0;
#pragma unroll 1
    for (u32 s = 0; s < steps; s++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        if (s + STAGES - 1 < steps) {
            unsigned char* next = memory + (now == 0 ? STAGES - 1 : now - 1) * STAGE;
            a.feed(next, from + (s + STAGES - 1) * FeedA::STEPS);
            b.feed(next + FeedA::BYTES, from + (s + STAGES - 1) * FeedA::STEPS);
        }
        copy_async_commit();
        const unsigned char *at_a = memory + now * STAGE, *at_b = at_a + FeedA::BYTES;
#pragma unroll
        for (int k = 0; k < PART_BYTES; k += 32) {
            u32 x[TALL][4], y[WIDE][2];
#pragma unroll
            for (int i = 0; i < TALL; i++) {
                const u32 m = warp_row + i * 16;
                if constexpr (FeedA::ALONG) {
                    ldmatrix_x4(x[i], at_a + (m + lane % 16) * LINE_BYTES + k + lane / 16 * 16);
                } else if constexpr (!Mma::words) {
                    ldmatrix_x4_trans(x[i], at_a + (k / 2 + lane / 16 * 8 + lane % 8) * FeedA::PITCH + (m + lane / 8 % 2 * 8) * 2);
                } else {
#pragma unroll
                    for (int r = 0; r < 4; r++)
                        x[i][r] = *(const u32*)(at_a + (k / 4 + lane % 4 + r / 2 * 4) * FeedA::PITCH + (m + lane / 4 + r % 2 * 8) * 4);
                }
            }
            if constexpr (FeedB::ALONG || !Mma::words) {
#pragma unroll
                for (int j = 0; j < WIDE; j += 2) {
                    u32 both[4], n = warp_column + j * 8 + lane / 16 * 8;
                    if constexpr (FeedB::ALONG)
                        ldmatrix_x4(both, at_b + (n + lane % 8) * LINE_BYTES + k + lane / 8 % 2 * 16);
                    else
                        ldmatrix_x4_trans(both, at_b + (k / 2 + lane % 16) * FeedB::PITCH + n * 2);
                    y[j][0] = both[0], y[j][1] = both[1], y[j + 1][0] = both[2], y[j + 1][1] = both[3];
                }
            } else {
#pragma unroll
                for (int j = 0; j < WIDE; j++)
#pragma unroll
                    for (int r = 0; r < 2; r++)
                        y[j][r] = *(const u32*)(at_b + (k / 4 + lane % 4 + 4 * r) * FeedB::PITCH + (warp_column + j * 8 + lane / 4) * 4);
            }
#pragma unroll
            for (int i = 0; i < TALL; i++)
#pragma unroll
                for (int j = 0; j < WIDE; j++) Mma::multiply(sums[i][j], x[i], y[j]);
        }
        now = now == STAGES - 1 ? 0 : now + 1;
    }
    copy_async_wait<0>();
    constexpr int PITCH = down ? 68 : COLUMNS + 8;  // all banks, for what the threads of a warp write at once
#pragma unroll 1
    for (u32 g = 0; g < ROWS; g += 64) {
        __syncthreads();
        if (warp_row / 64 * 64 == g) {
#pragma unroll
            for (int i = 0; i < TALL; i++)
#pragma unroll
                for (int j = 0; j < WIDE; j++)
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        u32 m = warp_row - g + i * 16 + lane / 4 + r / 2 * 8, n = warp_column + j * 8 + lane % 4 * 2 + r % 2;
                        shared[down ? n * PITCH + m : m * PITCH + n] = sums[i][j][r];
                    }
        }
        __syncthreads();
        drain<COLUMNS, PITCH, down>(shared, row + g, column, done);
    }
}
