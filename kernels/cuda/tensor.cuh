// The tensor cores' operations and asynchronous copies, on the device by PTX and on the CPU by what the PTX ISA says of them.
// All lanes of a warp take part in mma_* and ldmatrix_*.
//
//   mma_f16(c, a, b)  mma_bf16  mma_tf32   c += a * b: f32 c[4], u32 a[4], u32 b[2]; 16 x 16, 16 x 16, 16 x 8 by 8 columns
//   mma_s8s8(c, a, b)  mma_s8u8  mma_u8s8  mma_u8u8   the same of i32 c[4]; 16 x 32 by 8 columns; the sums wrap
//   float_to_tf32(f32)                     a word of a tf32 operand, rounded half away from zero
//   ldmatrix_x2(r, row)  ldmatrix_x4       u32 r[2 or 4]: 8 x 8 matrices of 16-bit elements from shared memory
//   ldmatrix_x2_trans  ldmatrix_x4_trans   the same, transposed
//   copy_async<bytes>(to, from, valid)     begins to copy 4, 8 or 16 bytes to shared memory; those from `valid` on become 0
//   spot_of(p)                             a place in shared memory as these operations take it, counted out once: spot + bytes
//   copy_async_commit()  copy_async_wait<n>()   closes a group of copies; waits until all but the last n groups are there
//
// How operands lie in a warp (PTX ISA, Matrix Fragments for mma.m16n8k16 and the like), with g = lane / 4, t = lane % 4: A is 16 rows
// of 32 bytes, B 8 columns of 32 bytes, C 16 x 8.
//   a[r]: the 4 bytes from 4 * t + 16 * (r / 2) on of row g + 8 * (r % 2)
//   b[r]: the 4 bytes from 4 * t + 16 * r on of column g
//   c[r]: row g + 8 * (r / 2), column 2 * t + r % 2
// ldmatrix takes the addresses of its matrices' rows of 16 bytes from the lanes, 8 a matrix; r[m] are the 4 bytes from 4 * t on of
// row g of matrix m, so that row + 16 * (lane / 16) bytes, of row lane % 16, is how ldmatrix_x4 loads A.
//
// The device sums products of floats with fewer bits than f32 holds, in an order of its own; the CPU in f64, rounded once.
#ifndef GRAPHMILL_SHIM

#define MMA(name, shape, types, T, how)                                                                                  \
    DEVICE void name(T (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {                                                  \
        asm volatile("mma.sync.aligned." shape ".row.col." types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                     : how(c[0]), how(c[1]), how(c[2]), how(c[3])                                                        \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                \
    }
MMA(mma_f16, "m16n8k16", "f32.f16.f16.f32", f32, "+f")
MMA(mma_bf16, "m16n8k16", "f32.bf16.bf16.f32", f32, "+f")
MMA(mma_tf32, "m16n8k8", "f32.tf32.tf32.f32", f32, "+f")
MMA(mma_s8s8, "m16n8k32", "s32.s8.s8.s32", i32, "+r")
MMA(mma_s8u8, "m16n8k32", "s32.s8.u8.s32", i32, "+r")
MMA(mma_u8s8, "m16n8k32", "s32.u8.s8.s32", i32, "+r")
MMA(mma_u8u8, "m16n8k32", "s32.u8.u8.s32", i32, "+r")
#undef MMA

DEVICE u32 float_to_tf32(f32 x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

struct Spot {
    u32 at;
    __device__ __forceinline__ Spot operator+(u32 bytes) const { return {at + bytes}; }
};
DEVICE Spot spot_of(const void* p) {  // the compiler would count it out again at each use
    Spot spot;
    asm volatile("mov.b32 %0, %1;" : "=r"(spot.at) : "r"(shared_address(p)));
    return spot;
}

#define LDMATRIX_2(name, how)                                                                  \
    DEVICE void name(u32 (&r)[2], Spot row) {                                                  \
        asm volatile("ldmatrix.sync.aligned.m8n8.x2" how ".shared.b16 {%0,%1}, [%2];"          \
                     : "=r"(r[0]), "=r"(r[1])                                                  \
                     : "r"(row.at)                                                             \
                     : "memory");                                                              \
    }                                                                                          \
    DEVICE void name(u32 (&r)[2], const void* row) { name(r, Spot{shared_address(row)}); }
#define LDMATRIX_4(name, how)                                                                  \
    DEVICE void name(u32 (&r)[4], Spot row) {                                                  \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" how ".shared.b16 {%0,%1,%2,%3}, [%4];"    \
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                          \
                     : "r"(row.at)                                                             \
                     : "memory");                                                              \
    }                                                                                          \
    DEVICE void name(u32 (&r)[4], const void* row) { name(r, Spot{shared_address(row)}); }
LDMATRIX_2(ldmatrix_x2, "")
LDMATRIX_2(ldmatrix_x2_trans, ".trans")
LDMATRIX_4(ldmatrix_x4, "")
LDMATRIX_4(ldmatrix_x4_trans, ".trans")
#undef LDMATRIX_2
#undef LDMATRIX_4

template <int bytes> DEVICE void copy_async(Spot to, const void* from, int valid = bytes) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "4, 8 or 16 bytes");
    if constexpr (bytes == 16)  // past the first level of the cache, which only copies of 16 bytes can
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to.at), "l"(from), "r"(valid) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to.at), "l"(from), "n"(bytes), "r"(valid) : "memory");
}
template <int bytes> DEVICE void copy_async(void* to, const void* from, int valid = bytes) {
    copy_async<bytes>(Spot{shared_address(to)}, from, valid);
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int n> DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory"); }

#else

namespace shim {
struct Operands { void* c; const u32 *a, *b; };

// How the elements of an operand's word are read, and in what they are summed up.
struct Half { typedef f64 Sum; static const int bits = 16; static f64 value(u32 x) { return half_to_float((u16)x); } };
struct Bfloat { typedef f64 Sum; static const int bits = 16; static f64 value(u32 x) { return bfloat_to_float((u16)x); } };
struct Tf32 { typedef f64 Sum; static const int bits = 32; static f64 value(u32 x) { return bits_to_float(x & ~0x1fffu); } };
struct Signed { typedef u32 Sum; static const int bits = 8; static u32 value(u32 x) { return (u32)(i32)(i8)x; } };
struct Unsigned { typedef u32 Sum; static const int bits = 8; static u32 value(u32 x) { return (u8)x; } };

template <class A, class B, class C> PLAIN static void multiply(void** data, u32) {
    const int each = 32 / A::bits, depth = 8 * each;
    typename A::Sum a[16][depth], b[8][depth];
    for (int lane = 0; lane < 32; lane++) {
        const Operands* of = (const Operands*)data[lane];
        if (!of) fail("mma takes whole warps");
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < each; i++) {
                int k = (lane % 4 + 4 * (r / 2)) * each + i;
                a[lane / 4 + 8 * (r % 2)][k] = A::value(of->a[r] >> (i * A::bits) % 32);
            }
        for (int r = 0; r < 2; r++)
            for (int i = 0; i < each; i++) b[lane / 4][(lane % 4 + 4 * r) * each + i] = B::value(of->b[r] >> (i * A::bits) % 32);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int r = 0; r < 4; r++) {
            int row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
            C& c = ((C*)((Operands*)data[lane])->c)[r];
            typename A::Sum sum = c;
            for (int k = 0; k < depth; k++) sum += a[row][k] * b[column][k];
            c = (C)sum;
        }
}

template <int n, bool trans> PLAIN static void load_matrices(void** data, u32) {
    u16 m[n][8][8];
    for (int lane = 0; lane < 32; lane++)
        if (!data[lane]) fail("ldmatrix takes whole warps");
    for (int i = 0; i < 8 * n; i++) {
        const void* row = ((Operands*)data[i])->a;
        if ((u64)row % 16) fail("ldmatrix takes rows at multiples of 16 bytes");
        WATCH(matrix(row, i % 8, trans));
        memcpy(m[i / 8][i % 8], row, 16);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < n; i++) {
            int g = lane / 4, t = 2 * (lane % 4);
            u16 low = trans ? m[i][t][g] : m[i][g][t], high = trans ? m[i][t + 1][g] : m[i][g][t + 1];
            ((u32*)((Operands*)data[lane])->c)[i] = low | (u32)high << 16;
        }
}

// Copies are made as late as they may be; with launches that go backwards, at once.
const int MOST_COPIES = 128;
struct Copy { void* to; const void* from; int bytes, valid; u32 group; };
struct Copies { Copy copy[MOST_COPIES]; int n; };

PLAIN static void make(const Copy& c) {
    memset(c.to, 0, c.bytes);
    memcpy(c.to, c.from, c.valid);
}

PLAIN static Copies& pending() {
    static Copies of[MOST];
    u32& groups = threads[me].groups;
    if (!groups) of[me].n = 0, groups = 1;
    return of[me];
}

PLAIN static void begin_copy(Copy c) {
    Copies& p = pending();
    c.group = threads[me].groups;
    WATCH(copy(c.to, c.from, c.bytes, c.valid, __builtin_return_address(0)));
    if (reverse) make(c);
    if (p.n == MOST_COPIES) fail("more copies under way than the CPU keeps");
    p.copy[p.n++] = c;
}

PLAIN static void commit() { pending(), threads[me].groups++; }

// The open group is the one after those closed: all but the last n of these are made.
PLAIN static void wait_for_copies(u32 n) {
    Copies& p = pending();
    int kept = 0;
    for (int i = 0; i < p.n; i++) {
        const Copy& c = p.copy[i];
        if (c.group + n >= threads[me].groups) {
            p.copy[kept++] = c;
            continue;
        }
        WATCH(copied(c.to, c.from, c.bytes, c.valid, __builtin_return_address(0)));
        if (!reverse) make(c);
    }
    p.n = kept;
}
}  // namespace shim

#define MMA(name, A, B, T)                                                             \
    DEVICE void name(T (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {                \
        shim::Operands o = {c, a, b};                                                  \
        shim::warp_meets(~0u, shim::multiply<shim::A, shim::B, T>, &o);                \
    }
MMA(mma_f16, Half, Half, f32)
MMA(mma_bf16, Bfloat, Bfloat, f32)
MMA(mma_tf32, Tf32, Tf32, f32)
MMA(mma_s8s8, Signed, Signed, i32)
MMA(mma_s8u8, Signed, Unsigned, i32)
MMA(mma_u8s8, Unsigned, Signed, i32)
MMA(mma_u8u8, Unsigned, Unsigned, i32)
#undef MMA

DEVICE u32 float_to_tf32(f32 x) { return x != x ? 0x7fffffffu : (float_to_bits(x) + 0x1000u) & ~0x1fffu; }

struct Spot {
    unsigned char* at;
    Spot operator+(u32 bytes) const { return {at + bytes}; }
};
DEVICE Spot spot_of(const void* p) { return {(unsigned char*)p}; }

#define LDMATRIX(name, n, trans)                                                       \
    DEVICE void name(u32 (&r)[n], Spot row) {                                          \
        shim::Operands o = {r, (const u32*)row.at, 0};                                 \
        shim::warp_meets(~0u, shim::load_matrices<n, trans>, &o);                      \
    }                                                                                  \
    DEVICE void name(u32 (&r)[n], const void* row) {                                   \
        shim::Operands o = {r, (const u32*)row, 0};                                    \
        shim::warp_meets(~0u, shim::load_matrices<n, trans>, &o);                      \
    }
LDMATRIX(ldmatrix_x2, 2, false)
LDMATRIX(ldmatrix_x2_trans, 2, true)
LDMATRIX(ldmatrix_x4, 4, false)
LDMATRIX(ldmatrix_x4_trans, 4, true)
#undef LDMATRIX

template <int bytes> DEVICE void copy_async(void* to, const void* from, int valid = bytes) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "4, 8 or 16 bytes");
    if ((u64)to % bytes || (u64)from % bytes) shim::fail("copy_async takes addresses that are multiples of the size");
    if (valid < 0 || valid > bytes) shim::fail("copy_async: more valid bytes than bytes");
    shim::begin_copy({to, from, bytes, valid, 0});
}
template <int bytes> DEVICE void copy_async(Spot to, const void* from, int valid = bytes) { copy_async<bytes>((void*)to.at, from, valid); }
DEVICE void copy_async_commit() { shim::commit(); }
template <int n> DEVICE void copy_async_wait() { shim::wait_for_copies(n); }
#endif
