// Products of few rows by the tensor cores, of 16-bit numbers: all that counts is how long it takes until the last number is there. Each
// warp of a block takes its own share of the reduction and reads both operands straight into registers, 16 bytes a lane: no barrier
// and no address stands between a load and its product. The warps' sums are added up in order on their way out (tile.cuh).
//
// The order of a reduction is free: lane t of each four has the numbers 8 * t ... 8 * t + 7 of 32 in its 16 bytes, of A's rows and of B's
// columns alike, and the products take them two and two. B lies packed for it (tiles.pack_direct): for each 8 columns and each 32
// steps of the reduction the 16 bytes of all lanes, one after the other.
constexpr u32 DIRECT_ROWS = 32, DIRECT_STEPS = 32;

struct alignas(16) Chunk { u32 at[4]; };

// The 16 bytes of an operand from a place and a depth on, 0 outside.
template <class E, class Source> DEVICE Chunk chunk_of(const Source& source, const typename Source::Place& place, const typename Source::Depth& depth, bool aligned) {
    u32 valid;
    const typename E::Memory* at = source.chunk(place, depth, valid);
    Chunk out = {};
    if (valid && aligned) out = *(const Chunk*)at;
    else if (valid) {
        Pack<E, 8> pack;
#pragma unroll
        for (int j = 0; j < 8; j++) pack.at[j] = at[j];
        out = __builtin_bit_cast(Chunk, pack);
    }
    return out;
}

// What a warp reads of 32 steps of the reduction: 32 rows and 32 columns.
struct Slice { Chunk a[4], b[4]; };

// The sums of 32 rows by ACROSS * 32 columns over `here` times 32 steps of the reduction from the `from`th on. B has `lines` times 8
// columns and `depths` times 32 steps.
template <class Mma, class E, int ACROSS, bool down, class A, class Out>
DEVICE void direct_tile(const A& left, const typename E::Memory* right, u32 lines, u32 depths, bool aligned, u32 row, u32 column, u32 from, u32 here,
                        f32* shared, const Out& out) {
    constexpr u32 COLUMNS = 32 * ACROSS, GROUPS = BLOCK / 32 / ACROSS;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / ACROSS, warp_column = warp % ACROSS * 32;
    typename A::Place places[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) places[i] = left.place(row + lane / 4 + i * 8);
    const u32 first = min((column + warp_column) / 8, lines - 4);  // a warp beyond the last columns does what nobody asks for
    const Chunk* const packed = (const Chunk*)right + lane;
    auto read = [&](Slice& s, u32 k) {
        auto depth = left.depth(k * DIRECT_STEPS + lane % 4 * 8);
#pragma unroll
        for (u32 i = 0; i < 4; i++) s.a[i] = chunk_of<E>(left, places[i], depth, aligned);
#pragma unroll
        for (u32 j = 0; j < 4; j++) s.b[j] = packed[((first + j) * depths + k) * 32];
    };
    f32 sums[2][4][4] = {};
    auto multiply = [&](const Slice& s) {
#pragma unroll
        for (int step = 0; step < 2; step++)
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const u32 *a = s.a[2 * i].at + 2 * step, *below = s.a[2 * i + 1].at + 2 * step, *b = s.b[j].at + 2 * step;
                    const u32 x[4] = {a[0], below[0], a[1], below[1]}, y[2] = {b[0], b[1]};
                    Mma::multiply(sums[i][j], x, y);
                }
    };
    typename Out::Fetched fetched[Out::template Turns<DIRECT_ROWS, COLUMNS>::AT_ONCE];
    const u32 end = from + here;
    Slice now, next;
    u32 k = from + group;
    if (k < end) read(now, k);
    out.template ahead<DIRECT_ROWS, COLUMNS>(row, column, fetched);
#pragma unroll 1
    for (; k < end; k += 2 * GROUPS) {
        if (k + GROUPS < end) read(next, k + GROUPS);
        multiply(now);
        if (k + 2 * GROUPS < end) read(now, k + 2 * GROUPS);
        if (k + GROUPS < end) multiply(next);
    }
    constexpr u32 PITCH = down ? DIRECT_ROWS + 4 : COLUMNS + 8;
    f32* const slab = shared + group * ((down ? COLUMNS : DIRECT_ROWS) * PITCH);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                u32 m = i * 16 + lane / 4 + r / 2 * 8, n = warp_column + j * 8 + lane % 4 * 2 + r % 2;
                slab[down ? n * PITCH + m : m * PITCH + n] = sums[i][j][r];
            }
    __syncthreads();
    out.template take<DIRECT_ROWS, COLUMNS, PITCH, GROUPS>(shared, row, column, fetched);
}
