// The scalar names of kernel texts: what kernels/cpu/vector.py offers to texts, for one number at a time, number by number as
// ir/scalar.py defines its primitives. f16, bf16 and smaller floats are f32 in registers, i4 and i2 i8, u4 and u2 u8.
// All of it stands in a namespace, in which the kernels' own namespaces lie: so `exp` is the one below, not the C library's.

#ifndef GRAPHMILL_SHIM
#pragma nv_diag_suppress 177  // no text uses all names
#endif

namespace graphmill {

constexpr bool True = true, False = false;
constexpr f64 inf = __builtin_bit_cast(f64, 0x7FF0000000000000ull), nan = __builtin_bit_cast(f64, 0x7FF8000000000000ull);

template <class T> constexpr bool is_float = false;
template <> constexpr bool is_float<f32> = true;
template <> constexpr bool is_float<f64> = true;
template <class T> constexpr bool is_signed = T(-1) < T(0);
template <class T> constexpr bool is_bool = false;
template <> constexpr bool is_bool<bool> = true;
template <class T> constexpr int width = 8 * int(sizeof(T));

// ---- conversions between registers ------------------------------------------------------------------------------

// x as another element type. Floats become integers as ir/scalar.py says: truncated, then modulo 2^n of their value as an i64; NaN
// and what no i64 (for u64: no u64) holds give 0 in types of up to 32 bits and 2^63 in those of 64.
template <class T, class S> DEVICE T convert(S x) {
    if constexpr (is_bool<T>) {
        return x != S(0);
    } else if constexpr (!is_float<S> || is_float<T>) {
        return T(x);
    } else {
        S size = x < S(0) ? -x : x;
        if constexpr (width<T> < 64) {
            if (size < S(0x1p31)) return T(i32(x));
            return size < S(0x1p63) ? T(i64(x)) : T(0);
        } else if constexpr (is_signed<T>) {
            return size < S(0x1p63) ? i64(x) : i64(1ull << 63);
        } else {
            S low = x >= S(0x1p63) ? x - S(0x1p63) : x;
            u64 bits = (low < S(0) ? -low : low) < S(0x1p63) ? u64(i64(low)) : 1ull << 63;
            return x >= S(0x1p63) ? bits ^ (1ull << 63) : bits;
        }
    }
}

// ---- element types ----------------------------------------------------------------------------------------------
// `Register` holds a value, `Memory` is how it lies in memory; `decode` and `encode` lead from one to the other, `from` converts a
// register of any type to one that holds a value of this type.

template <class T> struct Plain {
    using Register = T;
    using Memory = T;
    DEVICE T decode(T m) { return m; }
    DEVICE T encode(T x) { return x; }
    template <class S> DEVICE T from(S x) { return convert<T>(x); }
};

struct Bool {
    using Register = bool;
    using Memory = u8;
    DEVICE bool decode(u8 m) { return m != 0; }
    DEVICE u8 encode(bool x) { return x; }
    template <class S> DEVICE bool from(S x) { return convert<bool>(x); }
};

// Integers of `bits` bits, which lie in the low bits of a byte.
template <class T, int bits> struct Narrow {
    using Register = T;
    using Memory = u8;
    static constexpr int gap = 8 - bits;
    DEVICE T decode(u8 m) { return T(T(m << gap) >> gap); }
    DEVICE u8 encode(T x) { return u8(x) & ((1 << bits) - 1); }
    template <class S> DEVICE T from(S x) { return decode(u8(convert<T>(x))); }
};

struct Half {
    using Register = f32;
    using Memory = u16;
    DEVICE f32 decode(u16 m) { return half_to_float(m); }
    DEVICE u16 encode(f32 x) { return float_to_half(x); }
    template <class S> DEVICE f32 from(S x) { return decode(encode(convert<f32>(x))); }
    DEVICE f32 from(f64 x) { return decode(double_to_half(x)); }
};

struct Brain {
    using Register = f32;
    using Memory = u16;
    DEVICE f32 decode(u16 m) { return bfloat_to_float(m); }
    DEVICE u16 encode(f32 x) { return float_to_bfloat(x); }
    template <class S> DEVICE f32 from(S x) { return decode(encode(convert<f32>(x))); }
};

// What the formats of floats of up to 8 bits differ in: IEEE (infinity and NaN), ONES (all ones are NaN), UNSIGNED_ZERO (the code of
// -0 is NaN), FINITE (neither).
enum Special { IEEE, ONES, UNSIGNED_ZERO, FINITE };

// Floats of a sign, an exponent and a mantissa; `top` is the code of the greatest number.
template <int exponent, int mantissa, int bias, u32 top, Special special> struct Small {
    using Register = f32;
    using Memory = u8;
    static constexpr u32 sign_bit = 1u << (exponent + mantissa), quiet = 0x7FC00000;
    static constexpr int lift = 31 - exponent - mantissa, drop = 23 - mantissa;

    constexpr DEVICE f32 power(int n) { return __builtin_bit_cast(f32, u32(n + 127) << 23); }

    DEVICE f32 decode(u8 m) {
        u32 sign = u32(m & sign_bit) << lift, mag = m & (sign_bit - 1);
        u32 small = __builtin_bit_cast(u32, f32(mag) * power(1 - bias - mantissa));
        u32 out = mag < (1u << mantissa) ? small : (mag << drop) + (u32(127 - bias) << 23);
        if constexpr (special == IEEE) out = mag > top ? (mag << drop) | 0x7F800000 : out;
        if constexpr (special == ONES) out = mag > top ? quiet : out;
        out |= sign;
        if constexpr (special == UNSIGNED_ZERO) out = m == sign_bit ? quiet : out;
        return __builtin_bit_cast(f32, out);
    }

    // Half to even. Beyond the greatest number lie infinity, else NaN, else that number; NaN in a format without one gives zero of
    // the other sign.
    DEVICE u8 encode(f32 x) {
        u32 w = __builtin_bit_cast(u32, x), mag = w & 0x7FFFFFFF, sign = (w >> lift) & sign_bit;
        // Adding a power of two whose last bit is the least denormal lets the float unit round.
        constexpr f32 unit = power(1 - bias - mantissa + 23);
        u32 tiny = __builtin_bit_cast(u32, __builtin_bit_cast(f32, mag) + unit) - __builtin_bit_cast(u32, unit);
        u32 normal = (mag - (u32(127 - bias) << 23) + ((1u << (drop - 1)) - 1) + ((mag >> drop) & 1)) >> drop;
        u32 out = mag < __builtin_bit_cast(u32, power(1 - bias)) ? tiny : normal;
        bool isnan = mag > 0x7F800000, beyond = mag >= 0x7F800000 || out > top;
        if constexpr (special == UNSIGNED_ZERO) return u8(beyond ? sign_bit : out == 0 ? 0 : out | sign);
        if constexpr (special == FINITE) return u8(isnan ? sign ^ sign_bit : (beyond ? top : out) | sign);
        return u8((isnan ? sign_bit - 1 - (special == IEEE) : beyond ? top + 1 : out) | sign);
    }

    template <class S> DEVICE f32 from(S x) { return decode(encode(convert<f32>(x))); }
};

// Powers of two from 2^-127, which is a denormal; rounded half up.
struct Exponent {
    using Register = f32;
    using Memory = u8;
    DEVICE f32 decode(u8 m) {
        return __builtin_bit_cast(f32, m == 255 ? 0x7FC00000u : m == 0 ? 0x400000u : u32(m) << 23);
    }
    DEVICE u8 encode(f32 x) {
        u32 w = __builtin_bit_cast(u32, x);
        if (w == 0 || w >= 0x7F800000) return 255;
        return u8(w < 0x800000 ? u32(w > 0x400000) : (w + 0x400000) >> 23);
    }
    template <class S> DEVICE f32 from(S x) { return decode(encode(convert<f32>(x))); }
};

#define ELEMENT_TYPES(DO)                                                                                                 \
    DO(f64, Plain<f64>) DO(f32, Plain<f32>) DO(f16, Half) DO(bf16, Brain) DO(bool, Bool)                                  \
    DO(i64, Plain<i64>) DO(i32, Plain<i32>) DO(i16, Plain<i16>) DO(i8, Plain<i8>)                                         \
    DO(u64, Plain<u64>) DO(u32, Plain<u32>) DO(u16, Plain<u16>) DO(u8, Plain<u8>)                                         \
    DO(i4, Narrow<i8 COMMA 4>) DO(i2, Narrow<i8 COMMA 2>) DO(u4, Narrow<u8 COMMA 4>) DO(u2, Narrow<u8 COMMA 2>)           \
    DO(f8e4m3fn, Small<4 COMMA 3 COMMA 7 COMMA 0x7E COMMA ONES>)                                                          \
    DO(f8e4m3fnuz, Small<4 COMMA 3 COMMA 8 COMMA 0x7F COMMA UNSIGNED_ZERO>)                                               \
    DO(f8e5m2, Small<5 COMMA 2 COMMA 15 COMMA 0x7B COMMA IEEE>)                                                           \
    DO(f8e5m2fnuz, Small<5 COMMA 2 COMMA 16 COMMA 0x7F COMMA UNSIGNED_ZERO>)                                              \
    DO(f6e2m3, Small<2 COMMA 3 COMMA 1 COMMA 0x1F COMMA FINITE>)                                                          \
    DO(f6e3m2, Small<3 COMMA 2 COMMA 3 COMMA 0x1F COMMA FINITE>)                                                          \
    DO(f4e2m1, Small<2 COMMA 1 COMMA 1 COMMA 0x07 COMMA FINITE>)                                                          \
    DO(f8e8m0, Exponent)
#define COMMA ,

// ---- memory: an address (or a pointer) and the place of an element ------------------------------------------------

#define ELEMENT_NAMES(T, ...)                                                                                             \
    using element_##T = __VA_ARGS__;                                                                                      \
    template <class A, class I> DEVICE auto ld_##T(A at, I i) { return element_##T::decode(((const element_##T::Memory*)at)[i]); } \
    template <class A, class I> DEVICE auto get_##T(A at, I i) { return ld_##T(at, i); }                                  \
    template <class A, class I> DEVICE void st_##T(A at, I i, element_##T::Register x) {                                  \
        ((element_##T::Memory*)at)[i] = element_##T::encode(x);                                                           \
    }                                                                                                                     \
    template <class A, class I> DEVICE void put_##T(A at, I i, element_##T::Register x) { st_##T(at, i, x); }             \
    template <class S> DEVICE auto to_##T(S x) { return element_##T::from(x); }
ELEMENT_TYPES(ELEMENT_NAMES)
#undef ELEMENT_NAMES

// N neighbours of an element type, read and written at once: at a place that is a multiple of N.
template <class E, int N> struct alignas(N * sizeof(typename E::Memory)) Pack {
    typename E::Memory at[N];
    __device__ __forceinline__ typename E::Register get(int j) const { return E::decode(at[j]); }
    __device__ __forceinline__ void set(int j, typename E::Register x) { at[j] = E::encode(x); }
};
template <class E, int N> DEVICE Pack<E, N> load_pack(i64 at, u32 i) { return *(const Pack<E, N>*)(at + i64(i) * sizeof(typename E::Memory)); }
template <class E, int N> DEVICE void store_pack(i64 at, u32 i, Pack<E, N> x) { *(Pack<E, N>*)(at + i64(i) * sizeof(typename E::Memory)) = x; }

// Those of N neighbours from i on that are below n; `whole`: all are, and can be read and written at once.
template <class E, int N> DEVICE Pack<E, N> read_pack(i64 at, u32 i, u32 n, bool whole) {
    if (whole) return load_pack<E, N>(at, i);
    Pack<E, N> x = {};
    for (u32 j = 0; j < N; j++)
        if (i + j < n) x.at[j] = ((const typename E::Memory*)at)[i + j];
    return x;
}
template <class E, int N> DEVICE void write_pack(i64 at, u32 i, u32 n, bool whole, Pack<E, N> x) {
    if (whole) return store_pack(at, i, x);
    for (u32 j = 0; j < N; j++)
        if (i + j < n) ((typename E::Memory*)at)[i + j] = x.at[j];
}

template <class P, class I> DEVICE i64 param(const P& p, I i) { return p[i]; }

// The bits of a value of one type as a value of another of the same width.
template <class S, class T> DEVICE typename T::Register recast(typename S::Register x) {
    return T::decode(__builtin_bit_cast(typename T::Memory, S::encode(x)));
}
#define BITS(S, T) \
    DEVICE auto bits_##S##_##T(element_##S::Register x) { return recast<element_##S, element_##T>(x); }
#define BITS_64(S) BITS(S, f64) BITS(S, i64) BITS(S, u64)
#define BITS_32(S) BITS(S, f32) BITS(S, i32) BITS(S, u32)
#define BITS_16(S) BITS(S, f16) BITS(S, bf16) BITS(S, i16) BITS(S, u16)
#define BITS_8(S) \
    BITS(S, bool) BITS(S, i8) BITS(S, u8) BITS(S, f8e4m3fn) BITS(S, f8e4m3fnuz) BITS(S, f8e5m2) BITS(S, f8e5m2fnuz) BITS(S, f8e8m0)
#define BITS_6(S) BITS(S, f6e2m3) BITS(S, f6e3m2)
#define BITS_4(S) BITS(S, i4) BITS(S, u4) BITS(S, f4e2m1)
#define BITS_2(S) BITS(S, i2) BITS(S, u2)
BITS_64(f64) BITS_64(i64) BITS_64(u64)
BITS_32(f32) BITS_32(i32) BITS_32(u32)
BITS_16(f16) BITS_16(bf16) BITS_16(i16) BITS_16(u16)
BITS_8(bool) BITS_8(i8) BITS_8(u8) BITS_8(f8e4m3fn) BITS_8(f8e4m3fnuz) BITS_8(f8e5m2) BITS_8(f8e5m2fnuz) BITS_8(f8e8m0)
BITS_6(f6e2m3) BITS_6(f6e3m2)
BITS_4(i4) BITS_4(u4) BITS_4(f4e2m1)
BITS_2(i2) BITS_2(u2)
#undef BITS

// By the widest words at which both addresses and the length are aligned.
template <class D, class S> DEVICE void memcpy(D to, S from, i64 bytes) {
    u64 all = u64(to) | u64(from) | u64(bytes);
    if ((all & 7) == 0) {
        for (i64 i = 0; i < bytes / 8; i++) ((u64*)to)[i] = ((const u64*)from)[i];
    } else if ((all & 3) == 0) {
        for (i64 i = 0; i < bytes / 4; i++) ((u32*)to)[i] = ((const u32*)from)[i];
    } else {
        for (i64 i = 0; i < bytes; i++) ((u8*)to)[i] = ((const u8*)from)[i];
    }
}

template <class D> DEVICE void memset(D to, i64 byte, i64 bytes) {
    u64 word = u64(u8(byte)) * 0x0101010101010101ull, all = u64(to) | u64(bytes);
    if ((all & 7) == 0) {
        for (i64 i = 0; i < bytes / 8; i++) ((u64*)to)[i] = word;
    } else {
        for (i64 i = 0; i < bytes; i++) ((u8*)to)[i] = u8(word);
    }
}

// ---- arithmetic on equal types: integers wrap ---------------------------------------------------------------------

template <class T> struct Unsigned { using Type = u32; };  // in which an integer's arithmetic wraps without C++ minding
template <> struct Unsigned<i64> { using Type = u64; };
template <> struct Unsigned<u64> { using Type = u64; };
template <> struct Unsigned<f32> { using Type = f32; };
template <> struct Unsigned<f64> { using Type = f64; };
template <class T> using Wide = typename Unsigned<T>::Type;

template <class T> DEVICE T add(T a, T b) { return T(Wide<T>(a) + Wide<T>(b)); }
template <class T> DEVICE T sub(T a, T b) { return T(Wide<T>(a) - Wide<T>(b)); }
template <class T> DEVICE T mul(T a, T b) { return T(Wide<T>(a) * Wide<T>(b)); }
template <class T> DEVICE T square(T x) { return mul(x, x); }
template <class T> DEVICE T neg(T x) {
    if constexpr (is_float<T>) return -x;
    else return T(Wide<T>(0) - Wide<T>(x));
}
DEVICE f32 fma(f32 a, f32 b, f32 c) { return ::fmaf(a, b, c); }
DEVICE f64 fma(f64 a, f64 b, f64 c) { return ::fma(a, b, c); }
template <class T> DEVICE T fma(T a, T b, T c) { return add(mul(a, b), c); }

// Floats: IEEE. Integers: truncating; 0 for a zero divisor, INT_MIN / -1 is INT_MIN.
template <class T> DEVICE T div(T a, T b) {
    if constexpr (is_float<T>) return a / b;
    else if constexpr (is_signed<T>) return b == 0 ? T(0) : b == T(-1) ? neg(a) : T(a / b);
    else return b == 0 ? T(0) : T(a / b);
}

DEVICE f32 remainder_of(f32 a, f32 b) { return ::fmodf(a, b); }
DEVICE f64 remainder_of(f64 a, f64 b) { return ::fmod(a, b); }
DEVICE f32 with_sign(f32 x, f32 of) { return ::copysignf(x, of); }
DEVICE f64 with_sign(f64 x, f64 of) { return ::copysign(x, of); }
DEVICE f32 floor(f32 x) { return ::floorf(x); }
DEVICE f64 floor(f64 x) { return ::floor(x); }

// The remainder with the dividend's sign; integers: 0 for a zero divisor.
template <class T> DEVICE T fmod(T a, T b) {
    if constexpr (is_float<T>) return remainder_of(a, b);
    else if constexpr (is_signed<T>) return b == 0 || b == T(-1) ? T(0) : T(a % b);
    else return b == 0 ? T(0) : T(a % b);
}

// Whether a remainder has not the divisor's sign.
template <class T> DEVICE bool differs(T r, T b) { return r != T(0) && (r < T(0)) != (b < T(0)); }

// The remainder with the divisor's sign; integers: 0 for a zero divisor.
template <class T> DEVICE T mod(T a, T b) {
    T r = fmod(a, b);
    if constexpr (is_float<T>) return r == T(0) ? with_sign(r, b) : differs(r, b) ? r + b : r;
    else return is_signed<T> && differs(r, b) ? add(r, b) : r;
}

// The quotient rounded down; of floats as numpy's floor_divide.
template <class T> DEVICE T floordiv(T a, T b) {
    if constexpr (is_float<T>) {
        if (b == T(0)) return a / b;
        T r = fmod(a, b), q = (a - r) / b;
        q = differs(r, b) ? q - T(1) : q;
        if (q == T(0)) return with_sign(T(0), a / b);
        T whole = floor(q);
        return q - whole > T(0.5) ? whole + T(1) : whole;
    } else if constexpr (is_signed<T>) {
        if (b == 0) return T(0);
        if (b == T(-1)) return neg(a);
        T q = T(a / b);
        return differs(T(a - q * b), b) ? T(q - 1) : q;
    } else {
        return div(a, b);
    }
}

// NaN if either is.
template <class T> DEVICE T minimum(T a, T b) { return a < b || a != a ? a : b; }
template <class T> DEVICE T maximum(T a, T b) { return a > b || a != a ? a : b; }
DEVICE f32 minimum(f32 a, f32 b) { return min_nan(a, b); }
DEVICE f32 maximum(f32 a, f32 b) { return max_nan(a, b); }

DEVICE f32 absolute(f32 x) { return ::fabsf(x); }
DEVICE f64 absolute(f64 x) { return ::fabs(x); }
template <class T> DEVICE T absolute(T x) { return x < T(0) ? neg(x) : x; }

// -1, 0 or 1; NaN stays NaN.
template <class T> DEVICE T sign(T x) {
    T up = x > T(0) ? T(1) : T(0);
    if constexpr (is_float<T>) return x < T(0) ? T(-1) : x != x ? x : up;
    else return x < T(0) ? T(-1) : up;
}

// a to the power of b, wrapping, by squaring; a negative power of anything but 1 and -1 is 0.
template <class B> DEVICE i64 ipow(i64 a, B b) {
    if (b < B(0)) return a == 1 || (a == -1 && b % 2 != 0) ? a : a == -1 ? 1 : 0;
    i64 out = 1;
    for (; b != 0; b >>= 1) {
        if (b & 1) out = mul(out, a);
        a = mul(a, a);
    }
    return out;
}

// ---- bits and logic: and_ and or_ serve for bitand and bitor, which are words of C++

template <class T> DEVICE T and_(T a, T b) { return T(a & b); }
template <class T> DEVICE T or_(T a, T b) { return T(a | b); }
template <class T> DEVICE T xor_(T a, T b) { return T(a ^ b); }
template <class T> DEVICE T not_(T x) {
    if constexpr (is_bool<T>) return !x;
    else return T(~x);
}

// By a negative number, or by the width and more: 0 (-1 for a right shift of a negative number).
template <class T> DEVICE T shl(T a, T b) { return u64(b) < width<T> ? T(Wide<T>(a) << b) : T(0); }
template <class T> DEVICE T shr(T a, T b) {
    return u64(b) < width<T> ? T(a >> b) : is_signed<T> ? T(a >> (width<T> - 1)) : T(0);
}

// ---- tests ----------------------------------------------------------------------------------------------

template <class T> DEVICE bool lt(T a, T b) { return a < b; }
template <class T> DEVICE bool le(T a, T b) { return a <= b; }
template <class T> DEVICE bool gt(T a, T b) { return a > b; }
template <class T> DEVICE bool ge(T a, T b) { return a >= b; }
template <class T> DEVICE bool eq(T a, T b) { return a == b; }
template <class T> DEVICE bool ne(T a, T b) { return a != b; }
template <class T> DEVICE bool isnan(T x) { return x != x; }
template <class T> DEVICE bool isinf(T x) {
    if constexpr (is_float<T>) return absolute(x) == T(inf);
    else return false;
}
template <class T> DEVICE T bitxor(T a, T b) { return xor_(a, b); }
template <class T> DEVICE T bitnot(T x) { return not_(x); }
template <class C, class T> DEVICE T where(C c, T a, T b) { return c != C(0) ? a : b; }

// ---- functions of f32 and f64: those of CUDA's library, the accurate ones --------------------------------------------

#define FUNCTION(name, of_f32, of_f64)                        \
    DEVICE f32 name(f32 x) { return ::of_f32(x); }            \
    DEVICE f64 name(f64 x) { return ::of_f64(x); }
#define C_FUNCTION(name) FUNCTION(name, name##f, name)
C_FUNCTION(exp) C_FUNCTION(expm1) C_FUNCTION(log) C_FUNCTION(log1p) C_FUNCTION(erf) C_FUNCTION(sqrt)
C_FUNCTION(sin) C_FUNCTION(cos) C_FUNCTION(tan) C_FUNCTION(asin) C_FUNCTION(acos) C_FUNCTION(atan)
C_FUNCTION(sinh) C_FUNCTION(cosh) C_FUNCTION(tanh) C_FUNCTION(asinh) C_FUNCTION(acosh) C_FUNCTION(atanh)
C_FUNCTION(ceil) C_FUNCTION(trunc) C_FUNCTION(rint)
FUNCTION(softmax_exp, expf, exp)
#undef C_FUNCTION
#undef FUNCTION

template <class T> DEVICE T floor(T x) { return x; }  // of integers
template <class T> DEVICE T ceil(T x) { return x; }
template <class T> DEVICE T trunc(T x) { return x; }
template <class T> DEVICE T rint(T x) { return x; }

DEVICE f32 pow_(f32 a, f32 b) { return ::powf(a, b); }
DEVICE f64 pow_(f64 a, f64 b) { return ::pow(a, b); }
DEVICE f32 atan2(f32 y, f32 x) { return ::atan2f(y, x); }
DEVICE f64 atan2(f64 y, f64 x) { return ::atan2(y, x); }

}  // namespace graphmill
