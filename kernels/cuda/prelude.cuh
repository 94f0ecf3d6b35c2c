// What every CUDA kernel text may use, on the device (nvrtc) and on the CPU (shim.hpp stands before it then). It includes nothing.
//
//   KERNEL(threads, words[, shared]) {...}   the kernel: i64 words p[0] ... p[words - 1], blocks of THREADS threads, blockIdx.x
//   SHARED(T)                      the dynamic shared memory as T*, aligned to 128 bytes
//   DEVICE                         begins a helper function
//   f32 f64 i8 ... u64             types; bool is a byte in memory
//   FastDiv d(p[4])                division of u32 below 2^31 by a run-time constant that source.fast_div made: n / d, n % d
//   comes_last(&arrived, n, &word) whether the block is the last of n to come here
//   report(p[3])                   tells the host, in the scratch memory that begins there, that the operands were wrong; any thread may
//   half_to_float(u16) ...         conversions of 16-bit floats, to nearest even
//   warp_sum(v) block_sum<THREADS>(v), the same of max, min, prod, and fold(v, f)   reductions; all threads get the result
//                                  (warp_sum<8>(v): of each 8 lanes)
//
// Reductions go in a fixed order, which depends on the number of threads alone; max and min pass NaN on.
#define DEVICE static __device__ __forceinline__

typedef float f32;
typedef double f64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

template <int N> struct Words {
    i64 w[N];
    __device__ __forceinline__ i64 operator[](int i) const {
#ifdef GRAPHMILL_SHIM
        if (i < 0 || i >= N) shim::fail("reads a word beyond its parameters");
#endif
        return w[i];
    }
};

#ifndef GRAPHMILL_SHIM
// So many blocks should fit a multiprocessor: one, so that ptxas does not spill registers to make room for more, unless a text has a
// RESIDENT of its own.
constexpr int RESIDENT = 1;

// Kernels may be launched while the one before them still runs (gpu.py): each lets the next one begin at once, and waits for the one
// before to be done before it touches memory. What is launched so costs less than half of what it costs otherwise.
static __device__ __forceinline__ void follow() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#define KERNEL(threads, words, ...)                                                                                                 \
    static constexpr int THREADS = threads;                                                                                         \
    DEVICE void body(const Words<words>& p);                                                                                        \
    extern "C" __global__ void __launch_bounds__(threads, RESIDENT) NAME(const __grid_constant__ Words<words> p) {                  \
        follow();                                                                                                                   \
        body(p);                                                                                                                    \
    }                                                                                                                               \
    DEVICE void body(const Words<words>& p)
extern __shared__ __align__(128) unsigned char shared_memory[];
#define SHARED(T) ((T*)shared_memory)
#endif

// ---- indices ---------------------------------------------------------------------------------------------------------------------

struct FastDiv {
    u32 d, magic, shift;
    __device__ __forceinline__ explicit FastDiv(i64 word) : d((u32)word), magic((u32)((u64)word >> 32)), shift(63 - __clz((int)d - 1)) {}
};
DEVICE u32 operator/(u32 n, FastDiv d) { return (u32)((u64)n * d.magic >> d.shift); }
DEVICE u32 operator%(u32 n, FastDiv d) { return n - n / d * d.d; }

// A store would do on a GPU, but several threads that store at once are a race, even if they store the same.
DEVICE void report(i64 scratch) { atomicOr((u64*)scratch, 1ull); }

// Whether of `blocks` blocks all others have come here, which makes what they stored visible. `arrived` is a variable of the text, 0
// at first, which the last one leaves so: kernels of one stream follow each other. `word` lies in shared memory.
DEVICE bool comes_last(u32* arrived, u32 blocks, u32* word) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *word = atomicAdd(arrived, 1u);
        if (*word == blocks - 1) *arrived = 0;
    }
    __syncthreads();
    const bool last = *word == blocks - 1;
    __threadfence();
    return last;
}

// ---- 16-bit floats ---------------------------------------------------------------------------------------------------------------

DEVICE f32 bits_to_float(u32 x) { return __uint_as_float(x); }
DEVICE u32 float_to_bits(f32 x) { return __float_as_uint(x); }
DEVICE f32 bfloat_to_float(u16 x) { return bits_to_float((u32)x << 16); }

#ifndef GRAPHMILL_SHIM
DEVICE f32 half_to_float(u16 x) {
    f32 y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
DEVICE u16 float_to_half(f32 x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
DEVICE u16 double_to_half(f64 x) {
    u16 y;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(y) : "d"(x));
    return y;
}
DEVICE u16 float_to_bfloat(f32 x) {
    u16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
// Two in one word, `low` in its low half.
DEVICE u32 floats_to_halves(f32 low, f32 high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
DEVICE u32 floats_to_bfloats(f32 low, f32 high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
// The larger (smaller) of two, NaN where one is; -0 is below +0.
DEVICE f32 max_nan(f32 a, f32 b) {
    f32 y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
DEVICE f32 min_nan(f32 a, f32 b) {
    f32 y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
#else
DEVICE u32 floats_to_halves(f32 low, f32 high) { return float_to_half(low) | (u32)float_to_half(high) << 16; }
DEVICE u32 floats_to_bfloats(f32 low, f32 high) { return float_to_bfloat(low) | (u32)float_to_bfloat(high) << 16; }
DEVICE f32 max_nan(f32 a, f32 b) { return a != a || b != b ? a + b : a > b || (a == b && !(float_to_bits(a) >> 31)) ? a : b; }
DEVICE f32 min_nan(f32 a, f32 b) { return a != a || b != b ? a + b : a < b || (a == b && float_to_bits(a) >> 31) ? a : b; }
#endif
DEVICE f64 max_nan(f64 a, f64 b) { return a != a || b != b ? a + b : a > b ? a : b; }
DEVICE f64 min_nan(f64 a, f64 b) { return a != a || b != b ? a + b : a < b ? a : b; }
template <class T> DEVICE T max_nan(T a, T b) { return a > b ? a : b; }
template <class T> DEVICE T min_nan(T a, T b) { return a < b ? a : b; }

// ---- reductions ------------------------------------------------------------------------------------------------------------------

// The value of the lane whose number differs in the bits of m, of any type.
template <class T> DEVICE T lane_xor(T v, int m) {
    constexpr int n = (sizeof(T) + 3) / 4;
    u32 words[n] = {};
    memcpy(words, &v, sizeof(T));
    for (int i = 0; i < n; i++) words[i] = __shfl_xor_sync(0xffffffffu, words[i], m);
    memcpy(&v, words, sizeof(T));
    return v;
}

// v of `lanes` neighbouring lanes folded by f, which must commute, in pairs: those farthest apart first. The warp is whole.
template <int lanes = 32, class T, class F> DEVICE T warp_fold(T v, F f) {
    for (int m = lanes / 2; m; m >>= 1) v = f(v, lane_xor(v, m));
    return v;
}

// v of all threads folded by f: in each warp, then the warps' results from the first on. threads is a multiple of 32.
template <int threads, class T, class F> DEVICE T block_fold(T v, F f) {
    static_assert(threads % 32 == 0, "whole warps");
    v = warp_fold(v, f);
    if constexpr (threads > 32) {
        __shared__ T part[threads / 32];
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
        __syncthreads();
        v = part[0];
        for (int w = 1; w < threads / 32; w++) v = f(v, part[w]);
        __syncthreads();
    }
    return v;
}

struct FoldSum { template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; } };
struct FoldProd { template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a * b; } };
struct FoldMax { template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return max_nan(a, b); } };
struct FoldMin { template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return min_nan(a, b); } };
template <int lanes = 32, class T> DEVICE T warp_sum(T v) { return warp_fold<lanes>(v, FoldSum()); }
template <int lanes = 32, class T> DEVICE T warp_prod(T v) { return warp_fold<lanes>(v, FoldProd()); }
template <int lanes = 32, class T> DEVICE T warp_max(T v) { return warp_fold<lanes>(v, FoldMax()); }
template <int lanes = 32, class T> DEVICE T warp_min(T v) { return warp_fold<lanes>(v, FoldMin()); }
template <int threads, class T> DEVICE T block_sum(T v) { return block_fold<threads>(v, FoldSum()); }
template <int threads, class T> DEVICE T block_prod(T v) { return block_fold<threads>(v, FoldProd()); }
template <int threads, class T> DEVICE T block_max(T v) { return block_fold<threads>(v, FoldMax()); }
template <int threads, class T> DEVICE T block_min(T v) { return block_fold<threads>(v, FoldMin()); }
