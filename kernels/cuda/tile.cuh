// Products of matrices by tiles. A block computes ROWS x COLUMNS sums, DEPTH steps of the reduction at a time: both operands' parts
// go through registers into shared memory (two buffers: while one is multiplied the next part is on its way, and a barrier a part
// suffices), from where 16 x 16 threads take 4 rows and 4 columns each of every 64 x 64 square. A thread's squares of 4 lie in
// groups 64 apart, so that the threads of a warp read one run of shared memory without conflicts, 16 bytes each.
// The finished sums go once more through shared memory: they are then stored in the order in which the result lies, whatever the
// order of the threads in the tile, 16 bytes a thread, and all that is read beside them (a residual, a bias) is read before the first.
//
// An operand is a loader: `place(i)` is what it knows of row (column) i, `depth(k)` of step k of the reduction, `get(place, depth)`
// the number there, 0 outside. ALONG: neighbours in memory are neighbours along the reduction. REGULAR: all stand at regular steps.
// FILLED: `fill(depth)` stands there instead of 0. GRAIN: so many bytes of neighbours lie together.
constexpr int BLOCK = 256, DEPTH = 16;
constexpr u32 NONE = 0xffffffff;

// Numbers at regular steps; E is their element type, S the type of the sums.
template <class E, class S, bool along> struct Strided {
    using Element = E;
    using Sum = S;
    using Place = u32;
    using Depth = u32;
    static constexpr bool ALONG = along, REGULAR = true, FILLED = false;
    static constexpr u32 GRAIN = 16;
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

// What lies together in fewer bytes than 16.
template <class Base, u32 grain> struct Grained : Base {
    static constexpr u32 GRAIN = grain;
};

// Bytes of which a number each column (side) is to be taken off, after they are multiplied: see `totals` in mma.cuh.
template <class Base> struct Shifted : Base {
    i64 shifts;
    __device__ __forceinline__ typename Base::Sum shift(u32 i) const { return i < this->sides ? ((const i32*)shifts)[i] : 0; }
};

// Integers less the zero point of their row (column), of which there is one in all (step 0) or one each; outside they are 0.
template <class Base, class Zero> struct Less {
    using Sum = typename Base::Sum;
    using Depth = typename Base::Depth;
    struct Place { typename Base::Place place; Sum zero; };
    static constexpr bool ALONG = Base::ALONG, REGULAR = false;
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

// What a tile takes of shared memory, in numbers: two buffers, or all sums.
template <int ROWS, int COLUMNS> constexpr int tile_buffers = 2 * DEPTH * (ROWS + COLUMNS + 8);

template <class S, int N> struct alignas(16) Sums { S at[N]; };

// The sums of N neighbours (a multiple of 4) that lie in `slabs` places.
template <int N, class S> DEVICE Sums<S, N> sums_of(const S* from, u32 slabs, i64 apart) {
    Sums<S, N> out;
#pragma unroll
    for (int j = 0; j < N; j++) out.at[j] = S(0);
    for (u32 k = 0; k < slabs; k++)
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            Four<S> four = *(const Four<S>*)(from + k * apart + i);
#pragma unroll
            for (int j = 0; j < 4; j++) out.at[i + j] = add(out.at[i + j], four.at[j]);
        }
    return out;
}

// How many blocks have added to a tile so far.
constexpr u32 MOST_CUT = 1024;
static __device__ u32 arrived[MOST_CUT];

// Where the sums of a tile go, W neighbours along the columns or along the rows (down) at a time: fetch(row, column) reads what is
// needed beside them, store(row, column, fetched, sums) finishes and stores them. Of a reduction that is cut each block stores its
// part as it is, and the last to come adds all up in the order of the reduction.
template <class S, int W, bool down, class Fetch, class Store> struct Result {
    using Fetched = decltype(((const Fetch*)nullptr)->operator()(0u, 0u));
    template <int ROWS, int COLUMNS> struct Turns {  // of all threads: some groups of W each
        static constexpr u32 LINE = (down ? ROWS : COLUMNS) / W, COUNT = ROWS * COLUMNS / W, SIZE = ROWS * COLUMNS;
        static constexpr u32 AT_ONCE = W == 4 ? 1 : COUNT >= 4 * BLOCK ? 4 : COUNT >= 2 * BLOCK ? 2 : 1;
        static constexpr bool SINGLE = COUNT <= AT_ONCE * BLOCK && AT_ONCE <= 2;
        static __device__ __forceinline__ u32 row(u32 q) { return down ? q % LINE * W : q / LINE; }
        static __device__ __forceinline__ u32 column(u32 q) { return down ? q / LINE : q % LINE * W; }
    };
    const Fetch& fetch;
    const Store& store;
    S* parts;
    u32 splits;

    // What small tiles read beside their sums can be on its way while these are made.
    template <int ROWS, int COLUMNS>
    __device__ __forceinline__ void ahead(u32 row, u32 column, Fetched (&fetched)[Turns<ROWS, COLUMNS>::AT_ONCE]) const {
        using Turn = Turns<ROWS, COLUMNS>;
        if constexpr (Turn::SINGLE)
#pragma unroll
            for (u32 i = 0; i < Turn::AT_ONCE; i++) {
                u32 q = threadIdx.x + i * BLOCK;
                fetched[i] = fetch(q < Turn::COUNT ? row + Turn::row(q) : NONE, column + Turn::column(q));
            }
    }
    // Takes the sums from shared memory, where they are in lines of the result's order, PITCH numbers apart, in several SLABS.
    template <int ROWS, int COLUMNS, int PITCH, int SLABS>
    __device__ __forceinline__ void take(const S* shared, u32 row, u32 column, Fetched (&fetched)[Turns<ROWS, COLUMNS>::AT_ONCE]) const {
        using Turn = Turns<ROWS, COLUMNS>;
        const S* from = shared;
        u32 pitch = PITCH, slabs = SLABS;
        i64 apart = (down ? COLUMNS : ROWS) * PITCH;
        if (splits > 1) {  // blocks are counted by tile, then by split: nothing of that is held while the sums are made
            const u32 tile = blockIdx.x / splits, split = blockIdx.x % splits, tiles = gridDim.x / splits;
            S* to = parts + (i64(split) * tiles + tile) * Turn::SIZE;
#pragma unroll 1
            for (u32 q = threadIdx.x; q < Turn::COUNT; q += BLOCK)
                *(Sums<S, W>*)(to + q * W) = sums_of<W>(from + q / Turn::LINE * PITCH + q % Turn::LINE * W, SLABS, apart);
            if (!comes_last(arrived + tile, splits, (u32*)shared)) return;
            from = parts + i64(tile) * Turn::SIZE, pitch = Turn::LINE * W, slabs = splits, apart = i64(tiles) * Turn::SIZE;
        }
#pragma unroll 1
        for (u32 q = threadIdx.x; q < Turn::COUNT; q += Turn::AT_ONCE * BLOCK) {
            if constexpr (!Turn::SINGLE)
#pragma unroll
                for (u32 i = 0; i < Turn::AT_ONCE; i++) fetched[i] = fetch(row + Turn::row(q + i * BLOCK), column + Turn::column(q + i * BLOCK));
#pragma unroll
            for (u32 i = 0; i < Turn::AT_ONCE; i++) {
                const u32 g = q + i * BLOCK;
                store(row + Turn::row(g), column + Turn::column(g), fetched[i], sums_of<W>(from + g / Turn::LINE * pitch + g % Turn::LINE * W, slabs, apart));
            }
        }
    }
};

// The sums of a tile over `steps` parts of the reduction from `from` on.
template <int ROWS, int COLUMNS, bool down, class A, class B, class Out>
DEVICE void tile(const A& left, const B& right, u32 row, u32 column, u32 from, u32 steps, typename A::Sum* shared, const Out& out) {
    using S = typename A::Sum;
    constexpr int TALL = ROWS / 64, WIDE = COLUMNS / 64, HALF = tile_buffers<ROWS, COLUMNS> / 2, AT_B = DEPTH * (ROWS + 4);
    constexpr int PITCH = down ? ROWS : COLUMNS;
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
    for (int g = 0; g < TALL; g++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < WIDE; j++) {
                Four<S> four;
#pragma unroll
                for (int e = 0; e < 4; e++) four.at[e] = down ? sums[4 * g + e][4 * j + i] : sums[4 * g + i][4 * j + e];
                u32 at = down ? (j * 64 + tx * 4 + i) * PITCH + g * 64 + ty * 4 : (g * 64 + ty * 4 + i) * PITCH + j * 64 + tx * 4;
                *(Four<S>*)(shared + at) = four;
            }
    __syncthreads();
    typename Out::Fetched fetched[Out::template Turns<ROWS, COLUMNS>::AT_ONCE];
    out.template ahead<ROWS, COLUMNS>(row, column, fetched);
    out.template take<ROWS, COLUMNS, PITCH, 1>(shared, row, column, fetched);
}

// Of W neighbours in a tile from a row and column on: how many are in the result, the place of the first, whether all lie together.
template <int W, bool down, class Place> DEVICE void locate(u32 rows, u32 columns, u32 row, u32 column, const Place& place, u32& first, u32& count, bool& whole) {
    count = row < rows && column < columns ? min(down ? rows - row : columns - column, u32(W)) : 0;
    first = count ? place(row, column) : 0;
    whole = count == W && place(row + (down ? W - 1 : 0), column + (down ? 0 : W - 1)) == first + (W - 1);
}

// The first `count` of W numbers at index(j); at once, where they lie together (`whole`) at a multiple of their size.
template <class E, int W, class At> DEVICE Pack<E, W> gather_pack(i64 at, u32 first, u32 count, bool whole, const At& index) {
    constexpr int item = sizeof(typename E::Memory);
    if (whole && (at + i64(first) * item) % (W * item) == 0) return load_pack<E, W>(at, first);
    Pack<E, W> x = {};
#pragma unroll
    for (u32 j = 0; j < W; j++)
        if (j < count) x.at[j] = ((const typename E::Memory*)at)[index(j)];
    return x;
}
template <class E, int W, class At> DEVICE void scatter_pack(i64 at, u32 first, u32 count, bool whole, const At& index, const Pack<E, W>& x) {
    constexpr int item = sizeof(typename E::Memory);
    if (whole && (at + i64(first) * item) % (W * item) == 0) return store_pack(at, first, x);
#pragma unroll
    for (u32 j = 0; j < W; j++)
        if (j < count) ((typename E::Memory*)at)[index(j)] = x.at[j];
}

// What blocks share of a reduction that is cut, for few rows: which part is this one's, of which tile, where parts are left.
template <class S> struct Few {
    S* parts;
    u32 split, splits, tile, tiles, from, until;

    // Gives the COUNT sums of a tile that all blocks have left to done(q, sum), in the last block.
    template <int COUNT, class Done> __device__ __forceinline__ void close(u32* word, const Done& done) const {
        if (splits == 1 || !comes_last(arrived + tile, splits, word)) return;
#pragma unroll 1
        for (u32 q = threadIdx.x; q < COUNT; q += BLOCK) {
            S sum = S(0);
            for (u32 s = 0; s < splits; s++) sum += parts[(i64(s) * tiles + tile) * COUNT + q];
            done(q, sum);
        }
    }
    template <int COUNT, class Done> __device__ __forceinline__ void leave(u32 q, S sum, const Done& done) const {
        if (splits == 1) done(q, sum);
        else parts[(i64(split) * tiles + tile) * COUNT + q] = sum;
    }
};

// Sums of up to M rows, where each number of B is read but once and nothing counts but how fast: 32 or 64 columns that lie side by
// side are a block's; its warps take the steps of the reduction in turn, and their sums are added up in order.
template <class E, int M, class S, class Done>
DEVICE void few_across(const Few<S>& few, const typename E::Memory* a, u32 a_row, u32 a_col, i64 b, u32 b_row, u32 rows, u32 columns, u32 first,
                       S* shared, const Done& done) {
    constexpr int ITEM = sizeof(typename E::Memory), WIDE = ITEM < 4 ? 4 / ITEM : 1, SPAN = 32 * WIDE, WARPS = BLOCK / 32;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = first + lane * WIDE;
    const bool whole = ((b | i64(b_row) * ITEM) & (WIDE * ITEM - 1)) == 0 && column + WIDE <= columns;
    S sums[M][WIDE] = {};
    if (column < columns) {
#pragma unroll 8
        for (u32 k = few.from + warp; k < few.until; k += WARPS) {
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
    auto finish = [&](u32 q, S sum) {
        if (q / SPAN < rows && first + q % SPAN < columns) done(q / SPAN, first + q % SPAN, sum);
    };
#pragma unroll 1
    for (u32 q = threadIdx.x; q < M * SPAN; q += BLOCK) {
        S sum = S(0);
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += shared[w * M * SPAN + q];
        few.template leave<M * SPAN>(q, sum, finish);
    }
    few.template close<M * SPAN>((u32*)shared, finish);
}

// The same where the numbers of a column lie side by side: a warp has a column, its lanes take 16 bytes of it in turn.
template <class E, int M, class S, class Done>
DEVICE void few_along(const Few<S>& few, i64 a, u32 a_row, i64 b, u32 b_col, u32 rows, u32 columns, u32 first, S* shared, const Done& done) {
    constexpr int ITEM = sizeof(typename E::Memory), WIDE = 16 / ITEM, WARPS = BLOCK / 32;
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = first + warp;
    const bool aligned = ((a | b | i64(a_row) * ITEM | i64(b_col) * ITEM) & 15) == 0;
    S sums[M] = {};
    if (column < columns) {
#pragma unroll 4
        for (u32 k = few.from + lane * WIDE; k < few.until; k += 32 * WIDE) {
            bool whole = aligned && k + WIDE <= few.until;
            auto y = read_pack<E, WIDE>(b, column * b_col + k, column * b_col + few.until, whole);
#pragma unroll
            for (int m = 0; m < M; m++) {
                u32 at = min(u32(m), rows - 1) * a_row;
                auto x = read_pack<E, WIDE>(a, at + k, at + few.until, whole);
#pragma unroll
                for (int j = 0; j < WIDE; j++) sums[m] = fma(S(x.get(j)), S(y.get(j)), sums[m]);
            }
        }
    }
    auto finish = [&](u32 q, S sum) {
        if (q / WARPS < rows && first + q % WARPS < columns) done(q / WARPS, first + q % WARPS, sum);
    };
#pragma unroll
    for (int m = 0; m < M; m++) {
        S sum = warp_sum(sums[m]);
        if (int(lane) == m) few.template leave<M * WARPS>(u32(m) * WARPS + warp, sum, finish);
    }
    few.template close<M * WARPS>((u32*)shared, finish);
}
