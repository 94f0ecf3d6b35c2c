// CUDA C++ on a CPU: stands before prelude.cuh where a program is compiled for the host (shim.py).
//
// Blocks run one after another, in each the threads one after another until they wait. A thread that waits, at a barrier or in an
// operation of its warp, keeps its stack (a fiber); one that ends leaves its stack to the next, so that a kernel without barriers
// is a plain loop. The last thread to come to a common operation (a barrier, a shuffle, mma) does the work for all: the others wait
// in it, so that what it reads and writes on their stacks is there. Threads that can never go on are an error, and so is touching
// memory that is not there.
#include <signal.h>

#define GRAPHMILL_SHIM 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__
#define __shared__ static __attribute__((section("shared_memory")))
#define __constant__ static const
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define PLAIN __attribute__((no_sanitize("thread")))  // a function of the shim's own, whose loads and stores are none of the kernel's

extern "C" {
void *memcpy(void*, const void*, unsigned long), *memset(void*, int, unsigned long);
int snprintf(char*, unsigned long, const char*, ...);
unsigned long strlen(const char*);
void shim_switch(void** save, void* to) __attribute__((visibility("hidden")));
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));  // the linker's names for the ends of a section
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
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

// What kernels may read of the shim.
#define SHIM_REGISTER static __attribute__((section("shim_registers")))
struct uint3 { unsigned x, y, z; };
SHIM_REGISTER uint3 threadIdx, blockIdx, blockDim, gridDim;

// What sanitizer.hpp is told. Where it does not stand behind (shim.py), nothing is.
#ifdef GRAPHMILL_SANITIZE
#define WATCH(call) sanitizer::call
namespace sanitizer {
static void begin_launch(), begin_block(), begin_thread(), barrier(), fence(), follow();
static void warp(unsigned mask), called_from(const void* at), matrix(const void* row, unsigned r, bool trans), atomic(const void* at, unsigned bytes, const void* caller);
static void copy(const void* to, const void* from, unsigned bytes, unsigned valid, const void* caller);
static void copied(const void* to, const void* from, unsigned bytes, unsigned valid, const void* caller);
}  // namespace sanitizer
#else
#define WATCH(call) ((void)0)
#endif

namespace shim {
typedef unsigned u32;
typedef unsigned long long u64;
// What n threads that met do: data of each, null where a thread takes no part.
typedef void Job(void** data, u32 n);

const u32 MOST = 1024, STACK = 65536;  // as in shim.py
struct Thread { void* stack; Job* job; void* data; u32 mask, groups; };  // job: what it waits in, 0 if it does not; mask: 0 at a barrier
static Thread threads[MOST];
static u32 count, begun, ended, at_barrier, arrived[MOST / 32], reverse;
SHIM_REGISTER u32 me;
static u32 ready[MOST], ready_count, idle[MOST], idle_count, stacks_used;
static char* stacks;
static void* outside;
static char message[900];
static void (*body)();
static const long long* words;
SHIM_REGISTER unsigned char* dynamic;  // shared memory
static u64 bytes;                      // of it

PLAIN static void fail(const char* what) {
    void* dead;
    snprintf(message, sizeof message, "block %u, thread %u: %s", blockIdx.x, me, what);
    shim_switch(&dead, outside);
}

// Where in a text something is that C++ leaves undefined: what compilers tell the functions that they call then.
struct Where { const char* file; u32 line, column; };
PLAIN static void undefined(const Where* at, const char* what) {
    char text[300];
    snprintf(text, sizeof text, "%s, in line %u of %s", what, at->line, at->file);
    fail(text);
}

// Lets those of n threads go on that wait, or that the mask of their warp names. The first of them (the last, if launches go
// backwards) goes ahead of the others as far as it can: so it shows where it should have waited for them.
PLAIN static void wake(u32 first, u32 n, u32 mask) {
    for (u32 k = 0; k < n; k++) {
        u32 t = first + (reverse ? k : n - 1 - k);
        if (!threads[t].job || (mask && !(mask >> (t - first) & 1))) continue;
        threads[t].job = 0;
        if (t != me) ready[ready_count++] = t;
    }
}

PLAIN static void enter(u32 t) {
    me = t;
    threadIdx.x = t;
}

PLAIN static void begin() {
    enter(reverse ? count - 1 - begun : begun), begun++;
    WATCH(begin_thread());
}

static void go_on(void** save);
static void release();

// The bottom of every stack: one thread after another until a woken one is to go on instead.
PLAIN static void live() {
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
PLAIN static void go_on(void** save) {
    if (ready_count) return shim_switch(save, threads[ready[--ready_count]].stack);
    if (begun == count) return shim_switch(save, outside);
    u32 stack = idle_count ? idle[idle_count - 1] : stacks_used;
    void** top = (void**)(stacks + (u64)(stack + 1) * STACK) - SHIM_FRAME;
    memset(top, 0, SHIM_FRAME * sizeof *top);
    top[SHIM_RETURN] = (void*)live;
    shim_switch(save, top);
}

PLAIN static void wait() {
    u32 t = me;
    go_on(&threads[t].stack);
    enter(t);
}

// Does the work of the barrier for all that wait there and lets them go on.
PLAIN static void release() {
    static void* data[MOST];
    Job* job = 0;
    for (u32 t = 0; t < count; t++) {
        const Thread& w = threads[t];
        data[t] = w.job ? w.data : 0;
        if (w.job && job && w.job != job) fail("threads of a block meet in different barriers");
        if (w.job) job = w.job;
    }
    at_barrier = 0;
    WATCH(barrier());
    job(data, count);
    wake(0, count, 0);
}

// A meeting of all threads of the block that have not ended.
PLAIN static void block_meets(Job* job, void* data) {
    threads[me].job = job, threads[me].data = data, threads[me].mask = 0;
    at_barrier++;
    if (at_barrier + ended == count) release();
    else wait();
}

// A meeting of the lanes of a warp that the mask names.
PLAIN static void warp_meets(u32 mask, Job* job, void* data) {
    u32 first = me & ~31u, lane = me & 31;
    WATCH(called_from(__builtin_return_address(0)));
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
    wake(first, 32, mask);
}

PLAIN static void stuck() {
    u32 barrier = 0, warp = 0;
    for (u32 t = 0; t < count; t++)
        if (threads[t].job) threads[t].mask ? warp++ : barrier++;
    snprintf(message, sizeof message, "block %u hangs: of %u threads %u ended, %u wait at a barrier of the block, %u in an operation of their warp",
             blockIdx.x, count, ended, barrier, warp);
}

PLAIN static void broken(int signal, siginfo_t* info, void*) {
    char what[99];
    const char* at = (const char*)info->si_addr;
    if (signal == SIGFPE) snprintf(what, sizeof what, "divides an integer by 0");
    else if (signal == SIGILL) snprintf(what, sizeof what, "goes beyond a variable");  // clang's checks of bounds do not call for all
    else if (at >= stacks && at < stacks + (u64)MOST * STACK) snprintf(what, sizeof what, "needs a stack of more than 60 KiB");
    else snprintf(what, sizeof what, "touches memory that is not there, at %p", at);
    fail(what);
}

// Shared memory begins as NaN in every type of float: nothing may count on what is there.
PLAIN static void run_blocks(u32 n, u32 blocks) {
    blockDim = {n, 1, 1}, gridDim = {blocks, 1, 1};
    if (__start_shared_memory) memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    for (u32 b = 0; b < blocks && !message[0]; b++) {
        blockIdx = {reverse ? blocks - 1 - b : b, 0, 0}, threadIdx = {0, 0, 0};
        begun = ended = at_barrier = ready_count = idle_count = stacks_used = 0;
        memset(arrived, 0, sizeof arrived);
        for (u32 t = 0; t < n; t++) threads[t].job = 0, threads[t].groups = 0;
        if (bytes) memset(dynamic, 0xff, bytes);
        WATCH(begin_block());
        go_on(&outside);
        if (ended < n && !message[0]) stuck();
    }
}

// Runs a kernel; what went wrong, or null.
PLAIN static const char* launch(u32 n, void (*kernel)(), const long long* w, u32 blocks, u32 backwards, char* memory, unsigned char* shared, u64 size) {
    body = kernel, words = w, count = n, reverse = backwards, stacks = memory, dynamic = shared, bytes = size;
    message[0] = 0;
    static char signal_stack[65536];
    stack_t ours = {}, theirs;
    ours.ss_sp = signal_stack, ours.ss_size = sizeof signal_stack;
    sigaltstack(&ours, &theirs);
    struct sigaction act = {}, before[4];
    const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    act.sa_sigaction = broken, act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 4; i++) sigaction(signals[i], &act, &before[i]);
    WATCH(begin_launch());
    run_blocks(n, blocks);
    for (int i = 0; i < 4; i++) sigaction(signals[i], &before[i], 0);
    sigaltstack(&theirs, 0);
    return message[0] ? message : 0;
}
}  // namespace shim

extern "C" {
#define SHIM_UNDEFINED(name, what) void __ubsan_handle_##name(shim::Where* at, ...) { shim::undefined(at, what); }
SHIM_UNDEFINED(type_mismatch_v1, "uses an address that is not a multiple of what its type must have")
SHIM_UNDEFINED(out_of_bounds, "uses an index beyond its array")
SHIM_UNDEFINED(shift_out_of_bounds, "shifts by a negative number or by the width and more")
SHIM_UNDEFINED(divrem_overflow, "divides an integer by 0")
SHIM_UNDEFINED(float_cast_overflow, "makes an integer of a float that it cannot hold")
#undef SHIM_UNDEFINED
}

#define KERNEL(threads, n, ...)                                                                                                     \
    static constexpr int THREADS = threads;                                                                                         \
    static void body(const Words<n>& p);                                                                                            \
    PLAIN static void whole_body() { follow(), body(*(const Words<n>*)shim::words); }                                                             \
    extern "C" __attribute__((visibility("default"))) const char* NAME(const long long* w, unsigned blocks, unsigned backwards, char* memory, unsigned char* shared,       \
                                unsigned long long bytes) {                                                                         \
        return shim::launch(threads, whole_body, w, blocks, backwards, memory, shared, bytes);                                      \
    }                                                                                                                               \
    static inline void body(const Words<n>& p)
#define SHARED(T) ((T*)shim::dynamic)
static inline void follow() { WATCH(follow()); }  // as in prelude.cuh

// ---- operations of a block and of a warp -----------------------------------------------------------------------------------------

namespace shim {
PLAIN static void nothing(void**, u32) {}
// What __syncwarp does beyond meeting: it orders the accesses of the lanes, which nothing else of a warp's does.
PLAIN static void order(void** data, u32) {
    u32 mask = 0;
    for (u32 l = 0; l < 32; l++) mask |= (u32)(data[l] != 0) << l;
    WATCH(warp(mask));
}
PLAIN static void sum_all(void** data, u32 n) {
    int sum = 0;
    for (u32 i = 0; i < n; i++)
        if (data[i]) sum += *(int*)data[i];
    for (u32 i = 0; i < n; i++)
        if (data[i]) *(int*)data[i] = sum;
}
PLAIN static void sum_block(void** data, u32 n) { sum_all(data, n); }
PLAIN static void vote(void** data, u32 n) {
    u32 votes = 0;
    for (u32 i = 0; i < n; i++)
        if (data[i]) votes |= (u32)(*(u32*)data[i] != 0) << i;
    for (u32 i = 0; i < n; i++)
        if (data[i]) *(u32*)data[i] = votes;
}
struct Shuffle { u64 value, result; u32 from; };
PLAIN static void shuffle(void** data, u32 n) {
    for (u32 i = 0; i < n; i++) {
        Shuffle* s = (Shuffle*)data[i];
        if (s && !data[s->from]) fail("a lane reads one that takes no part in the shuffle");
        if (s) s->result = ((Shuffle*)data[s->from])->value;
    }
}
template <class T> PLAIN static T shuffled(u32 mask, T v, u32 from) {
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
static inline void __syncwarp(unsigned mask = ~0u) { shim::warp_meets(mask, shim::order, shim::message); }
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
