// Products of matrices by tiles. A block computes ROWS x COLUMNS sums, DEPTH steps of the reduction at a time: both operands' parts
// go through registers into shared memory (two buffers: while one is multiplied the next part is on its way, and a barrier a part
// suffices), from where 16 x 16 threads take 4 rows and 4 columns each of every 64 x 64 square. A thread's squares of 4 lie in
// groups 64 apart, so that the threads of a warp read one run of shared memory without conflicts, 16 bytes each.
// The finished sums go once more through shared memory: they are then stored in the order in which the result lies, whatever the
// order of the threads in the tile, four neighbours a thread, and the epilogue stands in the code four times and not a hundred.
//
// An operand is a loader: `place(i)` is what it knows of row (column) i, `depth(k)` of step k of the reduction, `get(place, depth)`
// the number there, 0 outside. ALONG: neighbours in memory are neighbours along the reduction.
constexpr int BLOCK = 256, DEPTH = 16;
constexpr int RESIDENT = 2;  // blocks of a multiprocessor: at most 128 registers a thread, so that one computes where the other waits
constexpr u32 NONE = 0xffffffff;

// Numbers at regular steps; E is their element type, S the type of the sums.
template <class E, class S, bool along> struct Strided {
    using Sum = S;
    using Place = u32;
    using Depth = u32;
    static constexpr bool ALONG = along;
    const typename E::Memory* at;
    u32 sides, depths, side_step, depth_step;
    __device__ __forceinline__ u32 place(u32 i) const { return i < sides ? i * side_step : NONE; }
    __device__ __forceinline__ u32 depth(u32 k) const { return k < depths ? k * depth_step : NONE; }
    __device__ __forceinline__ bool inside(u32 i, u32 k) const { return i != NONE && k != NONE; }
    __device__ __forceinline__ S read(u32 i, u32 k) const { return S(E::decode(at[i + k])); }
    __device__ __forceinline__ S get(u32 i, u32 k) const { return inside(i, k) ? read(i, k) : S(0); }
    // Where 16 bytes of neighbours begin, of which so many numbers are inside.
    __device__ __forceinline__ const typename E::Memory* chunk(u32 i, u32 k, u32& valid) const {
        constexpr u32 wide = 16 / sizeof(typename E::Memory);
        valid = inside(i, k) ? min(wide, along ? depths - k : sides - i) : 0;
        return valid ? at + i + k : at;
    }
};

// Integers less the zero point of their row (column), of which there is one in all (step 0) or one each; outside they are 0.
template <class Base, class Zero> struct Less {
    using Sum = typename Base::Sum;
    using Depth = typename Base::Depth;
    struct Place { typename Base::Place place; Sum zero; };
    static constexpr bool ALONG = Base::ALONG;
    Base base;
    i64 zeros;
    u32 step, count;
    __device__ __forceinline__ Place place(u32 i) const { return {base.place(i), Sum(ld_zero(min(i, count - 1) * step))}; }
    __device__ __forceinline__ auto ld_zero(u32 i) const { return ((const typename Zero::Memory*)zeros)[i]; }
    __device__ __forceinline__ Depth depth(u32 k) const { return base.depth(k); }
    __device__ __forceinline__ Sum get(const Place& r, const Depth& k) const {
        return base.inside(r.place, k) ? base.read(r.place, k) - r.zero : Sum(0);
    }
};

// What a thread carries of an operand from memory to a tile of SIDE rows or columns.
template <class Source, int SIDE> struct Carrier {
    static constexpr bool ALONG = Source::ALONG;
    static constexpr int COUNT = SIDE * DEPTH / BLOCK, PLACES = ALONG ? COUNT : 1, STEP = ALONG ? BLOCK / DEPTH : BLOCK / SIDE;
    static constexpr int PITCH = SIDE + 4;
    const Source& source;
    typename Source::Place places[PLACES];
    typename Source::Sum held[COUNT];
    u32 side, k;

    __device__ __forceinline__ Carrier(const Source& s, u32 first) : source(s) {
        side = ALONG ? threadIdx.x / DEPTH : threadIdx.x % SIDE;
        k = ALONG ? threadIdx.x % DEPTH : threadIdx.x / SIDE;
#pragma unroll
        for (int i = 0; i < PLACES; i++) places[i] = s.place(first + side + i * STEP);
    }
    __device__ __forceinline__ void load(u32 from) {
        if constexpr (ALONG) {
            auto depth = source.depth(from + k);
#pragma unroll
            for (int i = 0; i < COUNT; i++) held[i] = source.get(places[i], depth);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++) held[i] = source.get(places[0], source.depth(from + k + i * STEP));
        }
    }
    __device__ __forceinline__ void store(typename Source::Sum* tile) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            if constexpr (ALONG) tile[k * PITCH + side + i * STEP] = held[i];
            else tile[(k + i * STEP) * PITCH + side] = held[i];
    }
};

template <class T> struct alignas(16) Four { T at[4]; };

// What a tile takes of shared memory, in numbers: two buffers, or a part of the sums.
template <int ROWS, int COLUMNS> constexpr int tile_numbers = 2 * DEPTH * (ROWS + COLUMNS + 8);

// Gives 64 rows of sums to done(row, column, four), in the order of the result: four neighbours along the columns, or along the rows
// (down). They lie in shared memory as lines of that order, PITCH numbers apart.
template <int COLUMNS, int PITCH, bool down, class S, class Done>
DEVICE void drain(const S* shared, u32 row, u32 column, const Done& done) {
    constexpr int LINE = down ? 16 : COLUMNS / 4;  // fours of a line
#pragma unroll 1
    for (u32 q = threadIdx.x; q < 16 * COLUMNS; q += BLOCK) {
        u32 line = q / LINE, at = q % LINE * 4;
        Four<S> four = *(const Four<S>*)(shared + line * PITCH + at);
        done(row + (down ? at : line), column + (down ? line : at), four);
    }
}

// The sums of a tile over `steps` parts of the reduction from `from` on, given to done as `drain` says.
template <int ROWS, int COLUMNS, bool down, class A, class B, class Done>
DEVICE void tile(const A& left, const B& right, u32 row, u32 column, u32 from, u32 steps, typename A::Sum* shared, const Done& done) {
    using S = typename A::Sum;
    constexpr int TALL = ROWS / 64, WIDE = COLUMNS / 64, HALF = tile_numbers<ROWS, COLUMNS> / 2, AT_B = DEPTH * (ROWS + 4);
    static_assert(tile_numbers<ROWS, COLUMNS> >= 64 * COLUMNS, "the sums of 64 rows fit in");
    Carrier<A, ROWS> a(left, row);
    Carrier<B, COLUMNS> b(right, column);
    const u32 tx = down ? threadIdx.x / 16 : threadIdx.x % 16, ty = down ? threadIdx.x % 16 : threadIdx.x / 16;
    S sums[4 * TALL][4 * WIDE];
#pragma unroll
    for (int i = 0; i < 4 * TALL; i++)
#pragma unroll
        for (int j = 0; j < 4 * WIDE; j++) sums[i][j] = S(0);
    if (steps) {
        a.load(from), b.load(from);
        a.store(shared), b.store(shared + AT_B);
    }
    __syncthreads();
#pragma unroll 1
    for (u32 s = 0; s < steps; s++) {
        S *now = shared + s % 2 * HALF, *next = shared + (s + 1) % 2 * HALF;
        if (s + 1 < steps) a.load(from + (s + 1) * DEPTH), b.load(from + (s + 1) * DEPTH);
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            Four<S> x[TALL], y[WIDE];
#pragma unroll
            for (int i = 0; i < TALL; i++) x[i] = *(const Four<S>*)(now + k * (ROWS + 4) + i * 64 + ty * 4);
#pragma unroll
            for (int j = 0; j < WIDE; j++) y[j] = *(const Four<S>*)(now + AT_B + k * (COLUMNS + 4) + j * 64 + tx * 4);
#pragma unroll
            for (int i = 0; i < 4 * TALL; i++)
#pragma unroll
                for (int j = 0; j < 4 * WIDE; j++) sums[i][j] = fma(x[i / 4].at[i % 4], y[j / 4].at[j % 4], sums[i][j]);
        }
        if (s + 1 < steps) a.store(next), b.store(next + AT_B);
        __syncthreads();
    }
#pragma unroll
    for (int g = 0; g < TALL; g++) {
        if (g) __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < WIDE; j++) {
                Four<S> four;
#pragma unroll
                for (int e = 0; e < 4; e++) four.at[e] = down ? sums[4 * g + e][4 * j + i] : sums[4 * g + i][4 * j + e];
                u32 at = down ? (j * 64 + tx * 4 + i) * 64 + ty * 4 : (ty * 4 + i) * COLUMNS + j * 64 + tx * 4;
                *(Four<S>*)(shared + at) = four;
            }
        __syncthreads();
        drain<COLUMNS, down ? 64 : COLUMNS, down>(shared, row + g * 64, column, done);
    }
}

// Stores what finish(sum, row, column, to) makes of four neighbours, those that are in the result: `to` = place(row, column). At
// once, where they lie together at a multiple of their size.
template <class E, bool down, class S, class Place, class Finish>
DEVICE void store_four(i64 y, u32 rows, u32 columns, u32 row, u32 column, const Four<S>& four, const Place& place, const Finish& finish) {
    if (row >= rows || column >= columns) return;
    u32 n = min(down ? rows - row : columns - column, 4u), to[4];
    Pack<E, 4> out;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
        if (j >= n) break;
        u32 r = row + (down ? j : 0), c = column + (down ? 0 : j);
        to[j] = place(r, c);
        out.set(j, finish(four.at[j], r, c, to[j]));
    }
    constexpr int item = sizeof(typename E::Memory);
    if (n == 4 && to[3] == to[0] + 3 && (y + i64(to[0]) * item) % (4 * item) == 0) return store_pack(y, to[0], out);
#pragma unroll
    for (u32 j = 0; j < 4; j++)
        if (j < n) ((typename E::Memory*)y)[to[j]] = out.at[j];
}

// Where the reduction is cut into splits: the sums of all splits, added up in order, finished and stored.
template <class E, bool down, class S, class Place, class Finish>
DEVICE void fold_parts(i64 y, const S* parts, u32 splits, u32 batches, u32 rows, u32 columns, u32& batch, const Place& place, const Finish& finish) {
    u32 lines = down ? columns : rows, fours = ((down ? rows : columns) + 3) / 4;
    u32 q = blockIdx.x * BLOCK + threadIdx.x, at = q % fours * 4, line = q / fours;
    batch = line / lines, line %= lines;
    if (batch >= batches) return;
    u32 row = down ? at : line, column = down ? line : at;
    Four<S> four = {};
    for (u32 s = 0; s < splits; s++)
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 r = row + (down ? j : 0), c = column + (down ? 0 : j);
            if (r < rows && c < columns) four.at[j] = add(four.at[j], parts[((s * batches + batch) * rows + r) * columns + c]);
        }
    store_four<E, down>(y, rows, columns, row, column, four, place, finish);
}

// Sums of up to M rows, where each number of B is read but once and nothing counts but how fast: 32 or 64 columns that lie side by
// side are a block's; its warps take the steps of the reduction in turn, and their sums are added up in order.
template <class E, int M, class S, class Done>
DEVICE void few_across(const typename E::Memory* a, u32 a_row, u32 a_col, i64 b, u32 b_row, u32 rows, u32 columns, u32 depth, u32 first,
                       S* shared, const Done& done) {
    constexpr int ITEM = sizeof(typename E::Memory), WIDE = ITEM < 4 ? 4 / ITEM : 1, SPAN = 32 * WIDE, WARPS = BLOCK / 32;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = first + lane * WIDE;
    const bool whole = ((b | i64(b_row) * ITEM) & (WIDE * ITEM - 1)) == 0 && column + WIDE <= columns;
    S sums[M][WIDE] = {};
    if (column < columns) {
#pragma unroll 4
        for (u32 k = warp; k < depth; k += WARPS) {
            auto y = read_pack<E, WIDE>(b, k * b_row + column, k * b_row + columns, whole);
#pragma unroll
            for (int m = 0; m < M; m++) {
                S x = E::decode(a[min(u32(m), rows - 1) * a_row + k * a_col]);
#pragma unroll
                for (int j = 0; j < WIDE; j++) sums[m][j] = fma(x, S(y.get(j)), sums[m][j]);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < WIDE; j++) shared[(warp * M + m) * SPAN + lane * WIDE + j] = sums[m][j];
    __syncthreads();
#pragma unroll 1
    for (u32 q = threadIdx.x; q < M * SPAN; q += BLOCK) {
        u32 m = q / SPAN, c = first + q % SPAN;
        S sum = S(0);
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += shared[w * M * SPAN + q];
        if (m < rows && c < columns) done(m, c, sum);
    }
}

// The same where the numbers of a column lie side by side: a warp has a column, its lanes take 16 bytes of it in turn.
template <class E, int M, class S, class Done>
DEVICE void few_along(i64 a, u32 a_row, i64 b, u32 b_col, u32 rows, u32 columns, u32 depth, u32 first, const Done& done) {
    constexpr int ITEM = sizeof(typename E::Memory), WIDE = 16 / ITEM;
    const u32 lane = threadIdx.x % 32, column = first + threadIdx.x / 32;
    if (column >= columns) return;
    const bool aligned = ((a | b | i64(a_row) * ITEM | i64(b_col) * ITEM) & 15) == 0;
    S sums[M] = {};
#pragma unroll 2
    for (u32 k = lane * WIDE; k < depth; k += 32 * WIDE) {
        bool whole = aligned && k + WIDE <= depth;
        auto y = read_pack<E, WIDE>(b, column * b_col + k, column * b_col + depth, whole);
#pragma unroll
        for (int m = 0; m < M; m++) {
            u32 at = min(u32(m), rows - 1) * a_row;
            auto x = read_pack<E, WIDE>(a, at + k, at + depth, whole);
#pragma unroll
            for (int j = 0; j < WIDE; j++) sums[m] = fma(S(x.get(j)), S(y.get(j)), sums[m]);
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        S sum = warp_sum(sums[m]);
        if (int(lane) == m && m < rows) done(u32(m), column, sum);
    }
}
