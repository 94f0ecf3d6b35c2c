// Convolutions as products: a row is an output pixel (image, then its place along each axis), a column an output channel, a step of
// the reduction a tap (its place along each axis), then an input channel.
//
// A transposed convolution is cut into phases, one for each position of a result modulo the strides: along an axis a phase has the
// results out_add + q * out_mul and sees the taps tap + j * tap_step alone. Both kinds read, for result q and tap j of an axis, the
// input's place q * mul + add + j * inc.
struct Axis {
    u32 size, kernel, tap_step, out_mul;
    i32 mul, inc;
    u32 counts, all_places;
    FastDiv count, places;  // of taps, of results
    i32 add;
    u32 tap, out_add;
};
constexpr int AXIS = 6, PHASE = 6;  // words of an axis, and of each of its phases
template <class P> DEVICE Axis axis_of(const P& p, int at, u32 phase) {
    int f = at + AXIS + PHASE * phase;
    return {u32(p[at]), u32(p[at + 1]), u32(p[at + 2]), u32(p[at + 3]), i32(p[at + 4]), i32(p[at + 5]), u32(p[f]), u32(p[f + 1]),
            FastDiv(p[f + 2]), FastDiv(p[f + 3]), i32(p[f + 4]), u32(p[f + 5]), phase};
}
constexpr i32 FAR = 1 << 29;  // beyond every axis, twice too

// The input of a convolution.
template <class E, class S, bool along, int AXES> struct Window {
    using Element = E;
    using Sum = S;
    static constexpr bool ALONG = along, REGULAR = false, FILLED = false;
    static constexpr u32 GRAIN = 16;
    const typename E::Memory* at;
    u32 rows, depths;
    FastDiv channels;
    const Axis (&axes)[AXES];
    u32 step_n, step_c, steps[AXES];
    struct Place { i32 base, at[AXES]; };
    using Depth = Place;

    __device__ __forceinline__ Place place(u32 row) const {
        Place out = {};
        u32 q = row;
#pragma unroll
        for (int a = AXES - 1; a >= 0; a--) {
            u32 next = q / axes[a].places;
            out.at[a] = i32(q - next * axes[a].places.d) * axes[a].mul + axes[a].add;
            out.base += out.at[a] * i32(steps[a]);
            q = next;
        }
        out.base += i32(q * step_n);
        if (row >= rows) out.at[0] = FAR;
        return out;
    }
    __device__ __forceinline__ Depth depth(u32 k) const {
        Depth out = {};
        u32 tap = k / channels;
        out.base = i32((k - tap * channels.d) * step_c);
#pragma unroll
        for (int a = AXES - 1; a >= 0; a--) {
            u32 next = a ? tap / axes[a].count : 0;
            out.at[a] = i32(tap - next * axes[a].count.d) * axes[a].inc;
            out.base += out.at[a] * i32(steps[a]);
            tap = next;
        }
        if (k >= depths) out.at[0] = FAR;
        return out;
    }
    __device__ __forceinline__ bool inside(const Place& r, const Depth& k) const {
        bool all = true;
#pragma unroll
        for (int a = 0; a < AXES; a++) all = all && u32(r.at[a] + k.at[a]) < axes[a].size;
        return all;
    }
    __device__ __forceinline__ S read(const Place& r, const Depth& k) const { return S(E::decode(at[r.base + k.base])); }
    __device__ __forceinline__ S get(const Place& r, const Depth& k) const { return inside(r, k) ? read(r, k) : S(0); }
    // Where 16 bytes of neighbouring channels begin: a group's channels fill them.
    __device__ __forceinline__ const typename E::Memory* chunk(const Place& r, const Depth& k, u32& valid) const {
        valid = inside(r, k) ? 16 / sizeof(typename E::Memory) : 0;
        return valid ? at + (r.base + k.base) : at;
    }
};

// The same with a number of its own around the image: the zero point of bytes, which are multiplied as they are.
template <class Base> struct Around : Base {
    static constexpr bool FILLED = true;
    typename Base::Sum outside;
    __device__ __forceinline__ typename Base::Sum fill(const typename Base::Depth& k) const { return k.at[0] == FAR ? 0 : outside; }
    __device__ __forceinline__ typename Base::Sum get(const typename Base::Place& r, const typename Base::Depth& k) const {
        return this->inside(r, k) ? this->read(r, k) : fill(k);
    }
};

// The number of tap j of a phase among all taps.
template <int AXES> DEVICE u32 tap_number(const Axis (&axes)[AXES], u32 j) {
    u32 number = 0, places = 1;
#pragma unroll
    for (int a = AXES - 1; a >= 0; a--) {
        u32 next = a ? j / axes[a].count : 0;
        number += (axes[a].tap + (j - next * axes[a].count.d) * axes[a].tap_step) * places;
        places *= axes[a].kernel;
        j = next;
    }
    return number;
}

// Weights that do not lie as matrices of all steps of the reduction.
template <class E, class S, bool along, int AXES> struct Weights {
    using Element = E;
    using Sum = S;
    using Place = u32;
    using Depth = u32;
    static constexpr bool ALONG = along, REGULAR = false, FILLED = false;
    static constexpr u32 GRAIN = 16;
    const typename E::Memory* at;
    u32 columns, depths;
    FastDiv channels;
    const Axis (&axes)[AXES];
    u32 step_out, step_in, step_tap;

    __device__ __forceinline__ u32 place(u32 i) const { return i < columns ? i * step_out : NONE; }
    __device__ __forceinline__ u32 depth(u32 k) const {
        u32 j = k / channels;
        return k < depths ? tap_number(axes, j) * step_tap + (k - j * channels.d) * step_in : NONE;
    }
    __device__ __forceinline__ bool inside(u32 i, u32 k) const { return i != NONE && k != NONE; }
    __device__ __forceinline__ S read(u32 i, u32 k) const { return S(E::decode(at[i + k])); }
    __device__ __forceinline__ S get(u32 i, u32 k) const { return inside(i, k) ? read(i, k) : S(0); }
    // Where 16 bytes of neighbours begin: output channels of one step, or steps of one tap.
    __device__ __forceinline__ const typename E::Memory* chunk(u32 i, u32 k, u32& valid) const {
        constexpr u32 wide = 16 / sizeof(typename E::Memory);
        valid = inside(i, k) ? (along ? wide : min(wide, columns - i)) : 0;
        return valid ? at + i + k : at;
    }
};

// The place of a pixel of a phase among all of its image's, `image` becomes its image.
template <int AXES> DEVICE u32 pixel_of(const Axis (&axes)[AXES], const u32 (&sizes)[AXES], u32 row, u32& image) {
    u32 pixel = 0, step = 1;
#pragma unroll
    for (int a = AXES - 1; a >= 0; a--) {
        u32 next = row / axes[a].places;
        pixel += ((row - next * axes[a].places.d) * axes[a].out_mul + axes[a].out_add) * step;
        step *= sizes[a];
        row = next;
    }
    image = row;
    return pixel;
}
