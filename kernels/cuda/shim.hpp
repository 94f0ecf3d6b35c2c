// CUDA C++ on a CPU: stands before prelude.cuh where a program is compiled for the host (shim.py). It includes nothing.
//
// Blocks run one after another, in each the threads one after another until they wait. A thread that waits, at a barrier or in an
// operation of its warp, keeps its stack (a fiber); one that ends leaves its stack to the next, so that a kernel without barriers
// is a plain loop. The last thread to come to a common operation (a barrier, a shuffle, mma) does the work for all: the others wait
// in it, so that what it reads and writes on their stacks is there. Threads that can never go on are an error.
#define GRAPHMILL_SHIM 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__
#define __shared__ static
#define __constant__ static const
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

extern "C" {
void* memcpy(void*, const void*, unsigned long);
void* memset(void*, int, unsigned long);
int snprintf(char*, unsigned long, const char*, ...);
void shim_switch(void** save, void* to) __attribute__((visibility("hidden")));
}

// Puts the registers that a function must keep on the stack, whose pointer goes to *save, and goes on where `to` was saved.
#if defined(__x86_64__)
asm(R"(.text
.hidden shim_switch
.globl shim_switch
shim_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");
const int SHIM_FRAME = 8, SHIM_RETURN = 6;  // words that a new stack begins with, and which of them is where to go
#elif defined(__aarch64__)
asm(R"(.text
.hidden shim_switch
.globl shim_switch
shim_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
const int SHIM_FRAME = 20, SHIM_RETURN = 11;
#else
#error "kernels run on the CPU on x86-64 and aarch64 only"
#endif

struct uint3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {
typedef unsigned u32;
typedef unsigned long long u64;
// What n threads that met do: data of each, null where a thread takes no part.
typedef void Job(void** data, u32 n);

const u32 MOST = 1024, STACK = 65536;  // as in shim.py
struct Thread { void* stack; Job* job; void* data; u32 mask; };  // job: what it waits in, 0 if it does not; mask: 0 at a barrier
static Thread threads[MOST];
static u32 count, begun, ended, at_barrier, arrived[MOST / 32], me, reverse;
static u32 ready[MOST], ready_first, ready_count, idle[MOST], idle_count, stacks_used;
static char* stacks;
static void* outside;
static char message[400];
static void (*body)();
static const long long* words;
static unsigned char* dynamic;

static void fail(const char* what) {
    void* dead;
    snprintf(message, sizeof message, "block %u, thread %u: %s", blockIdx.x, me, what);
    shim_switch(&dead, outside);
}

static void wake(u32 t) {
    threads[t].job = 0;
    ready[(ready_first + ready_count++) % MOST] = t;
}

static void enter(u32 t) {
    me = t;
    threadIdx.x = t;
}

static void begin() { enter(reverse ? count - 1 - begun : begun), begun++; }

static void go_on(void** save);
static void release();

// The bottom of every stack: one thread after another until a woken one is to go on instead.
static void live() {
    u32 stack = idle_count ? idle[--idle_count] : stacks_used++;
    do {
        begin();
        body();
        ended++;
        if (at_barrier && at_barrier + ended == count) release();
    } while (!ready_count && begun < count);
    idle[idle_count++] = stack;
    void* dead;
    go_on(&dead);
}

// Leaves a stack for the next thread: one that was woken, one that has not begun, or, without any, for the launch.
static void go_on(void** save) {
    if (ready_count) {
        u32 t = ready[ready_first];
        ready_first = (ready_first + 1) % MOST, ready_count--;
        return shim_switch(save, threads[t].stack);
    }
    if (begun == count) return shim_switch(save, outside);
    u32 stack = idle_count ? idle[idle_count - 1] : stacks_used;
    void** top = (void**)(stacks + (u64)(stack + 1) * STACK) - SHIM_FRAME;
    memset(top, 0, SHIM_FRAME * sizeof *top);
    top[SHIM_RETURN] = (void*)live;
    shim_switch(save, top);
}

static void wait() {
    u32 t = me;
    go_on(&threads[t].stack);
    enter(t);
}

// Does the work of the barrier for all that wait there and lets them go on.
static void release() {
    static void* data[MOST];
    Job* job = 0;
    for (u32 t = 0; t < count; t++) {
        const Thread& w = threads[t];
        data[t] = w.job ? w.data : 0;
        if (w.job && job && w.job != job) fail("threads of a block meet in different barriers");
        if (w.job) job = w.job;
    }
    at_barrier = 0;
    job(data, count);
    for (u32 t = 0; t < count; t++)
        if (threads[t].job && t != me) wake(t);
    threads[me].job = 0;
}

// A meeting of all threads of the block that have not ended.
static void block_meets(Job* job, void* data) {
    threads[me].job = job, threads[me].data = data, threads[me].mask = 0;
    at_barrier++;
    if (at_barrier + ended == count) release();
    else wait();
}

// A meeting of the lanes of a warp that the mask names.
static void warp_meets(u32 mask, Job* job, void* data) {
    u32 first = me & ~31u, lane = me & 31;
    if (count - first < 32) mask &= (1u << (count - first)) - 1;
    if (!(mask >> lane & 1)) fail("a lane is not in the mask of its own warp operation");
    threads[me].job = job, threads[me].data = data, threads[me].mask = mask;
    arrived[first / 32] |= 1u << lane;
    if (mask & ~arrived[first / 32]) return wait();
    void* lanes[32] = {};
    for (u32 l = 0; l < 32; l++) {
        const Thread& w = threads[first + l];
        if (!(mask >> l & 1)) continue;
        if (w.job != job || w.mask != mask) fail("lanes of a warp meet in different operations or with different masks");
        lanes[l] = w.data;
    }
    arrived[first / 32] &= ~mask;
    job(lanes, 32);
    for (u32 l = 0; l < 32; l++)
        if (mask >> l & 1 && l != lane) wake(first + l);
    threads[me].job = 0;
}

static void stuck() {
    u32 barrier = 0, warp = 0;
    for (u32 t = 0; t < count; t++)
        if (threads[t].job) threads[t].mask ? warp++ : barrier++;
    snprintf(message, sizeof message, "block %u hangs: of %u threads %u ended, %u wait at a barrier of the block, %u in an operation of their warp",
             blockIdx.x, count, ended, barrier, warp);
}

// Runs the blocks; what went wrong, or null.
static const char* launch(u32 n, void (*kernel)(), const long long* w, u32 blocks, u32 backwards, char* memory, unsigned char* shared, u64 bytes) {
    body = kernel, words = w, count = n, reverse = backwards, stacks = memory, dynamic = shared;
    blockDim = {n, 1, 1}, gridDim = {blocks, 1, 1}, message[0] = 0;
    for (u32 b = 0; b < blocks && !message[0]; b++) {
        blockIdx = {reverse ? blocks - 1 - b : b, 0, 0}, threadIdx = {0, 0, 0};
        begun = ended = at_barrier = ready_first = ready_count = idle_count = stacks_used = 0;
        memset(arrived, 0, sizeof arrived);
        for (u32 t = 0; t < n; t++) threads[t].job = 0;
        if (bytes) memset(dynamic, 0xff, bytes);  // NaN in every type of float: nothing may count on what is there
        go_on(&outside);
        if (ended < n && !message[0]) stuck();
    }
    return message[0] ? message : 0;
}
}  // namespace shim

#define KERNEL(threads, n, ...)                                                                                                     \
    static constexpr int THREADS = threads;                                                                                         \
    static void body(const Words<n>& p);                                                                                            \
    static void whole_body() { body(*(const Words<n>*)shim::words); }                                                               \
    extern "C" __attribute__((visibility("default"))) const char* NAME(const long long* w, unsigned blocks, unsigned backwards, char* memory, unsigned char* shared,       \
                                unsigned long long bytes) {                                                                         \
        return shim::launch(threads, whole_body, w, blocks, backwards, memory, shared, bytes);                                      \
    }                                                                                                                               \
    static inline void body(const Words<n>& p)
#define SHARED(T) ((T*)shim::dynamic)

// ---- operations of a block and of a warp -----------------------------------------------------------------------------------------

namespace shim {
static void nothing(void**, u32) {}
static void sum_all(void** data, u32 n) {
    int sum = 0;
    for (u32 i = 0; i < n; i++)
        if (data[i]) sum += *(int*)data[i];
    for (u32 i = 0; i < n; i++)
        if (data[i]) *(int*)data[i] = sum;
}
static void sum_block(void** data, u32 n) { sum_all(data, n); }
static void vote(void** data, u32 n) {
    u32 votes = 0;
    for (u32 i = 0; i < n; i++)
        if (data[i]) votes |= (u32)(*(u32*)data[i] != 0) << i;
    for (u32 i = 0; i < n; i++)
        if (data[i]) *(u32*)data[i] = votes;
}
struct Shuffle { u64 value, result; u32 from; };
static void shuffle(void** data, u32 n) {
    for (u32 i = 0; i < n; i++) {
        Shuffle* s = (Shuffle*)data[i];
        if (s && !data[s->from]) fail("a lane reads one that takes no part in the shuffle");
        if (s) s->result = ((Shuffle*)data[s->from])->value;
    }
}
template <class T> static T shuffled(u32 mask, T v, u32 from) {
    static_assert(sizeof(T) <= 8, "at most 8 bytes");
    Shuffle s = {0, 0, from};
    memcpy(&s.value, &v, sizeof v);
    warp_meets(mask, shuffle, &s);
    memcpy(&v, &s.result, sizeof v);
    return v;
}
}  // namespace shim

static inline void __syncthreads() { shim::block_meets(shim::nothing, shim::message); }
static inline int __syncthreads_count(int v) {
    v = v != 0;
    shim::block_meets(shim::sum_block, &v);
    return v;
}
static inline int __syncthreads_or(int v) { return __syncthreads_count(v) != 0; }
static inline int __syncthreads_and(int v) { return __syncthreads_count(!v) == 0; }
static inline void __syncwarp(unsigned mask = ~0u) { shim::warp_meets(mask, shim::nothing, shim::message); }
static inline unsigned __ballot_sync(unsigned mask, int v) {
    unsigned votes = v != 0;
    shim::warp_meets(mask, shim::vote, &votes);
    return votes;
}
static inline int __any_sync(unsigned mask, int v) { return __ballot_sync(mask, v) != 0; }
static inline int __all_sync(unsigned mask, int v) { return __ballot_sync(mask, !v) == 0; }
template <class T> static T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
    return shim::shuffled(mask, v, (shim::me & 31 & -width) | (from & (width - 1)));
}
template <class T> static T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    unsigned lane = shim::me & 31;
    return shim::shuffled(mask, v, (lane & (width - 1)) >= delta ? lane - delta : lane);
}
template <class T> static T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    unsigned lane = shim::me & 31;
    return shim::shuffled(mask, v, (lane & (width - 1)) + delta < (unsigned)width ? lane + delta : lane);
}
template <class T> static T __shfl_xor_sync(unsigned mask, T v, int m, int width = 32) {
    unsigned lane = shim::me & 31, from = lane ^ m;
    return shim::shuffled(mask, v, from <= (lane | (width - 1)) && from < 32 ? from : lane);
}
template <class T> static T __reduce_add_sync(unsigned mask, T v) {
    shim::warp_meets(mask, shim::sum_all, &v);
    return v;
}

// ---- functions that CUDA has built in --------------------------------------------------------------------------------------------

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
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
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
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __trap() { shim::fail("__trap()"); }

#define SHIM_ATOMIC(name, value)                                       \
    template <class T> static T name(T* p, decltype(T() + T()) given) { \
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
template <class T> static T atomicCAS(T* p, T expected, T v) {
    T old = *p;
    if (old == expected) *p = v;
    return old;
}

// Vectors of 8 and 16 bytes, which are read and written at once.
#define SHIM_VECTOR(T, name)                                                                                     \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                                           \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; };                           \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                            \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SHIM_VECTOR(float, float)
SHIM_VECTOR(double, double)
SHIM_VECTOR(int, int)
SHIM_VECTOR(unsigned, uint)
SHIM_VECTOR(long long, longlong)
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
