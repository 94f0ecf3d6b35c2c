// The functions and types that CUDA has built in, for the CPU: stands behind shim.hpp. Without -ffast-math all of them are as exact.

extern "C" {
#define ONE(name) double name(double) noexcept; float name##f(float) noexcept;
#define TWO(name) double name(double, double) noexcept; float name##f(float, float) noexcept;
ONE(exp) ONE(expm1) ONE(exp2) ONE(exp10) ONE(log) ONE(log1p) ONE(log2) ONE(log10) ONE(erf) ONE(erfc) ONE(tanh) ONE(sinh) ONE(cosh) ONE(asinh)
ONE(acosh) ONE(atanh) ONE(sin) ONE(cos) ONE(tan) ONE(asin) ONE(acos) ONE(atan) ONE(sqrt) ONE(cbrt) ONE(floor) ONE(ceil) ONE(trunc) ONE(rint)
ONE(round) ONE(nearbyint) ONE(fabs) ONE(lgamma) ONE(tgamma)
TWO(pow) TWO(fmod) TWO(atan2) TWO(hypot) TWO(fmax) TWO(fmin) TWO(copysign) TWO(remainder) TWO(nextafter)
#undef ONE
#undef TWO
double fma(double, double, double) noexcept;
float fmaf(float, float, float) noexcept;
double ldexp(double, int) noexcept;
float ldexpf(float, int) noexcept;
int abs(int) noexcept;
long long llabs(long long) noexcept;
}
static inline float rsqrtf(float x) { return (float)(1 / sqrt((double)x)); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
template <class T> static T min(T a, T b) { return b < a ? b : a; }
template <class T> static T max(T a, T b) { return a < b ? b : a; }

namespace shim {
template <class To, class From> static To bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "equal sizes");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
}  // namespace shim
static inline int __float_as_int(float x) { return shim::bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return shim::bits<unsigned>(x); }
static inline float __int_as_float(int x) { return shim::bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return shim::bits<float>(x); }
static inline long long __double_as_longlong(double x) { return shim::bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return shim::bits<double>(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
static inline int __popcll(unsigned long long x) {
    int n = 0;
    for (; x; x &= x - 1) n++;
    return n;
}
static inline int __popc(unsigned x) { return __popcll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    unsigned long long v = (unsigned long long)b << 32 | a;
    unsigned y = 0;
    for (int i = 0; i < 4; i++) y |= (unsigned)(v >> (s >> 4 * i & 7) * 8 & 255) << 8 * i;
    return y;
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += (int)(signed char)(a >> i) * (signed char)(b >> i);
    return c;
}
template <class T> static T __ldg(const T* p) { return *p; }
template <class T> static T __ldcs(const T* p) { return *p; }
template <class T> static void __stcs(T* p, T v) { *p = v; }
static inline void __threadfence() { WATCH(fence()); }
static inline void __threadfence_block() {}
static inline void __trap() { shim::fail("__trap()"); }

#define SHIM_ATOMIC(name, value)                                       \
    template <class T> PLAIN static T name(T* p, decltype(T() + T()) given) { \
        WATCH(atomic(p, sizeof(T), __builtin_return_address(0)));      \
        T old = *p, v = (T)given;                                      \
        *p = (T)(value);                                               \
        return old;                                                    \
    }
SHIM_ATOMIC(atomicAdd, old + v)
SHIM_ATOMIC(atomicSub, old - v)
SHIM_ATOMIC(atomicMax, old < v ? v : old)
SHIM_ATOMIC(atomicMin, v < old ? v : old)
SHIM_ATOMIC(atomicAnd, old & v)
SHIM_ATOMIC(atomicOr, old | v)
SHIM_ATOMIC(atomicXor, old ^ v)
SHIM_ATOMIC(atomicExch, v)
#undef SHIM_ATOMIC
template <class T> PLAIN static T atomicCAS(T* p, T expected, T v) {
    WATCH(atomic(p, sizeof(T), __builtin_return_address(0)));
    T old = *p;
    if (old == expected) *p = v;
    return old;
}

// Vectors, which are read and written at once, up to 16 bytes.
#define SHIM_VECTOR(T, name)                                                                                     \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                                           \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };                           \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                            \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SHIM_VECTOR(float, float)
SHIM_VECTOR(double, double)
SHIM_VECTOR(signed char, char)
SHIM_VECTOR(unsigned char, uchar)
SHIM_VECTOR(short, short)
SHIM_VECTOR(unsigned short, ushort)
SHIM_VECTOR(int, int)
SHIM_VECTOR(unsigned, uint)
SHIM_VECTOR(long long, longlong)
SHIM_VECTOR(unsigned long long, ulonglong)
#undef SHIM_VECTOR

// ---- 16-bit floats, to nearest even ----------------------------------------------------------------------------------------------

namespace shim {
// x with fewer bits: `digits` of them behind the point, exponents from `least` to `most`, by adding in f64 and by scaling.
static unsigned short narrow(double x, int digits, int least, int most, unsigned short infinity, unsigned short nan) {
    u64 b = bits<u64>(x);
    unsigned short sign = (unsigned short)(b >> 48 & 0x8000);
    if (x != x) return nan;
    b &= ~(1ull << 63);
    int exponent = (int)(b >> 52) - 1023;
    if (exponent > most) return sign | infinity;
    if (exponent < least - digits - 1) return sign;
    u64 digit = (b & ((1ull << 52) - 1)) | 1ull << 52;
    int drop = 52 - digits + (exponent < least ? least - exponent : 0);
    u64 kept = digit >> drop, rest = digit & ((1ull << drop) - 1), half = 1ull << (drop - 1);
    kept += rest > half || (rest == half && kept & 1);
    if (exponent >= least) kept += (u64)(exponent - least) << digits;  // the leading one adds the last step of the exponent
    return sign | (unsigned short)kept;
}
}  // namespace shim
static inline unsigned short double_to_half(double x) { return shim::narrow(x, 10, -14, 15, 0x7c00, 0x7fff); }
static inline unsigned short float_to_half(float x) { return double_to_half(x); }
static inline unsigned short float_to_bfloat(float x) { return shim::narrow(x, 7, -126, 127, 0x7f80, 0x7fff); }
static inline float half_to_float(unsigned short x) {
    unsigned sign = (unsigned)(x & 0x8000) << 16, exponent = x >> 10 & 31, digits = x & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | digits << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | digits << 13);
    return __uint_as_float(sign | __float_as_uint((float)digits * 0x1p-24f));
}
