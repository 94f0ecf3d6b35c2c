// What memcheck, racecheck and initcheck of compute-sanitizer look for, on a CPU: stands behind shim.hpp where kernels are compiled
// with -fsanitize=thread, whose calls (__tsan_read4 and the like) are answered here and not by that sanitizer's own library.
//
// Of each byte that a kernel may touch a Cell tells who touched it last. An access is an error where it
//   - is not within one array of the launch (those that `graphmill_watch` was given), shared memory or the thread's own stack;
//   - reads a byte that nobody wrote; bytes that an asynchronous copy brings are as defined as they were where they come from. Of
//     shared memory 8 bytes and more may be read at once if some of them are defined: so compilers copy structures with padding;
//     what is not defined is NaN, and shows in results if it is used;
//   - touches a byte that another thread touched, one of both writing, and nothing orders the two;
//   - touches what an asynchronous copy is still to write, or comes to global memory before follow() (prelude.cuh).
// What orders the two, order.hpp says.
#include <sys/mman.h>

extern "C" {
extern char __ehdr_start[] __attribute__((visibility("hidden")));  // the linker's names for where the library begins, and its variables
extern char __bss_start[] __attribute__((visibility("hidden")));
extern char __start_shim_registers[] __attribute__((visibility("hidden")));
extern char __stop_shim_registers[] __attribute__((visibility("hidden")));
}

namespace sanitizer {
enum { PENDING = 1, UNDEFINED = 2 };  // flags of a write: an asynchronous copy is to make it; of bytes that nobody wrote
enum Kind { READ, WRITE, ATOMIC };
struct Cell { Access write, read[2], atom; };
// An array, as shim.py gives it; `defined` has a byte for each, 0 where nobody wrote (null: all are).
// Four bytes have one cell, the first byte's, until one of them is touched by itself: then they are `split`.
struct Space {
    const char* at;
    u64 bytes;
    u8* defined;
    u64 shared;
    Cell* cells;
    u8* split;
    PLAIN Cell& cell(u64 i) const { return cells[split[i / 4] ? i : i & ~3ull]; }
    PLAIN Cell& own_cell(u64 i) {
        u64 first = i & ~3ull;
        if (!split[i / 4])
            for (u64 k = first + 1; k < first + 4; k++) cells[k] = cells[first];
        split[i / 4] = 1;
        return cells[i];
    }
};

static Space *spaces, *latest;
static const long long* words;
static u32 space_count, word_count;
static bool all_known;  // whether there are no other arrays
static bool followed[MOST];
static const void* caller;  // of the latest operation of a warp

// Memory that costs nothing where it is not touched.
PLAIN static void* map(u64 bytes) {
    void* got = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got != MAP_FAILED) return got;
    snprintf(shim::message, sizeof shim::message, "the sanitizer gets no memory: it asked for %llu bytes", bytes);
    return 0;
}

PLAIN static void follow() { followed[shim::me] = true; }

// ---- errors ----------------------------------------------------------------------------------------------------------------------

PLAIN static const char* verb(u32 kind) { return kind == READ ? "reads" : kind == WRITE ? "writes" : "changes by an atomic"; }

// shim.py replaces #array# by its name, and @place in the library@ by the line.
PLAIN static void broken(u32 t, const Space* s, const char* at, u32 where, const char* what, const char* then) {
    char text[700];
    snprintf(text, sizeof text, "%s byte %lld of #%lld#, in @%x@%s", what, (long long)(at - s->at), (long long)(s - spaces), where, then);
    shim::enter(t);
    fail(text);
}

PLAIN static void conflict(u32 t, const Space* s, const char* at, u32 kind, u32 where, const Access& other, u32 other_kind) {
    char then[300];
    u32 number = other.run - first_run, block = shim::reverse ? gridDim.x - 1 - number : number;
    const char* did = other_kind == READ ? "read" : other_kind == WRITE ? "wrote" : "changed by an atomic";
    const char* why = other.flags & PENDING && other.run == run ? "an asynchronous copy that was not waited for" : "nothing orders the two";
    snprintf(then, sizeof then, ", which thread %u of block %u %s in @%x@: %s", other.thread, block, did, other.where, why);
    broken(t, s, at, where, verb(kind), then);
}

PLAIN static void outside(u32 t, const char* at, u32 size, u32 kind, u32 where) {
    char text[120];
    const Space* nearest = 0;
    for (u32 i = 0; i < space_count && spaces[i].at <= at; i++) nearest = spaces + i;
    snprintf(text, sizeof text, "%s %u bytes outside of all arrays%s", verb(kind), size, nearest ? ", at" : "");
    if (nearest) broken(t, nearest, at, where, text, "");
    snprintf(text + strlen(text), 40, ", in @%x@", where);
    fail(text);
}

// ---- accesses --------------------------------------------------------------------------------------------------------------------

PLAIN static bool within(const Space& s, const char* at, u64 size) {
    return at >= s.at && (u64)(at - s.at) < s.bytes && size <= s.bytes - (u64)(at - s.at);
}

PLAIN static Space* space_of(const char* at, u32 size) {
    if (latest && within(*latest, at, size)) return latest;
    u32 low = 0, high = space_count;  // the last array that begins at or before it
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (spaces[middle].at <= at) low = middle + 1;
        else high = middle;
    }
    if (low && within(spaces[low - 1], at, size)) return latest = &spaces[low - 1];
    return 0;
}

PLAIN static bool is_now(const Access& a, const Access& now) {
    return a.run == now.run && a.thread == now.thread && a.epoch == now.epoch && a.clock == now.clock;
}

PLAIN static bool written(const Space& s, u64 i) {
    if (!s.shared) return !s.defined || s.defined[i];
    const Cell& c = s.cell(i);
    return c.write.run == run && !(c.write.flags & UNDEFINED);
}

// How many of the bytes from i on, up to n, were written.
PLAIN static u32 written(const Space& s, u64 i, u32 n) {
    u32 k = 0;
    while (k < n && written(s, i + k)) k++;
    return k;
}

PLAIN static bool some_written(const Space& s, u64 first, u32 size) {
    for (u64 i = first; i < first + size; i++)
        if (written(s, i)) return true;
    return false;
}

PLAIN static void check(const Space& s, u64 i, u32 t, u32 kind, u32 where, const Access& a, u32 other) {
    if (!a.run || (!(a.flags & PENDING && a.run == run) && ordered(a, t, s.shared))) return;
    conflict(t, &s, s.at + i, kind, where, a, other);
}

PLAIN static void keep_reader(Cell& c, const Access& now, const Space& s) {
    for (Access& r : c.read)
        if (!r.run || ordered(r, now.thread, s.shared)) {
            r = now;
            return;
        }
    const Access &a = c.read[0], &b = c.read[1];
    bool alike = a.run == b.run && a.thread / 32 == b.thread / 32;
    if (alike && (now.run != a.run || now.thread / 32 != a.thread / 32)) c.read[1] = now;
}

// Thread t touches bytes of a space: checks them against all before, and keeps that it did.
PLAIN static void touch(Space& s, const char* at, u32 size, u32 kind, u32 where, u32 t, u16 flags = 0) {
    const Access now = {run, where, (u16)epoch, clocks[t], (u16)t, flags};
    u64 first = at - s.at;
    if (!s.shared) {
        if (!followed[t]) broken(t, &s, at, where, verb(kind), ": comes before follow()");
        if (kind != ATOMIC && !dirty[t]) dirty[t] = true, dirty_count++;
    }
    for (u64 i = first, n; i < first + size; i += n) {
        n = i % 4 == 0 && i + 4 <= first + size && !s.split[i / 4] ? 4 : 1;
        Cell& c = n == 4 ? s.cells[i] : s.own_cell(i);
        if (kind == READ && is_now(c.read[0], now)) continue;
        u32 there = kind == WRITE ? n : written(s, i, n);
        check(s, i, t, kind, where, c.write, WRITE);
        if (kind != ATOMIC) check(s, i, t, kind, where, c.atom, ATOMIC);
        if (there < n && !(kind == READ && s.shared && size >= 8 && some_written(s, first, size)))
            broken(t, &s, s.at + i + there, where, verb(kind), ", which nobody wrote");
        if (kind == READ) {
            keep_reader(c, now, s);
            continue;
        }
        check(s, i, t, kind, where, c.read[0], READ), check(s, i, t, kind, where, c.read[1], READ);
        if (kind == ATOMIC) {
            c.atom = now;
            continue;
        }
        c.write = now, c.read[0].run = c.read[1].run = c.atom.run = 0;
        if (s.defined) memset(s.defined + i, 1, n);
    }
}

// A load or a store of a kernel's.
PLAIN static void access(const char* at, u32 size, u32 kind, u32 where) {
    const u64 stack = (u64)(at - shim::stacks);
    if (stack < (u64)MOST * shim::STACK) {
        if (stack / shim::STACK != (u64)((char*)__builtin_frame_address(0) - shim::stacks) / shim::STACK) fail("touches another thread's stack");
        return;
    }
    if (kind == READ && at >= __start_shim_registers && at < __stop_shim_registers) return;
    if (kind == READ && at >= (const char*)words && at + size <= (const char*)(words + word_count)) return;
    Space* s = space_of(at, size);
    const bool constant = kind == READ && at >= __ehdr_start && at < __bss_start && !(at >= __start_shared_memory && at < __stop_shared_memory);
    if (s) touch(*s, at, size, kind, where, shim::me);
    else if (all_known && !constant) outside(shim::me, at, size, kind, where);
}

PLAIN static u32 offset(const void* caller) { return (u32)((const char*)caller - __ehdr_start); }

PLAIN static void atomic(const void* at, u32 size, const void* caller) {
    Space* s = space_of((const char*)at, size);
    if (!s) {
        if (all_known) outside(shim::me, (const char*)at, size, ATOMIC, offset(caller));
        return;
    }
    touch(*s, (const char*)at, size, ATOMIC, offset(caller), shim::me);
    if (!s->shared) exchange((const char*)at);
}

PLAIN static void called_from(const void* at) { caller = at; }

// A row of a matrix of ldmatrix: each lane reads what it is given of it.
PLAIN static void matrix(const void* row, u32 r, bool trans) {
    const char* at = (const char*)row;
    u32 first = shim::me & ~31u, where = offset(caller), step = trans ? 2 : 4;
    Space* s = space_of(at, 16);
    if (!s || !s->shared) fail("ldmatrix reads beyond shared memory");
    for (u32 i = 0; i < 16 / step; i++) touch(*s, at + i * step, step, READ, where, first + (trans ? 4 * i + r / 2 : 4 * r + i));
}

// Reads those of the bytes that were written; it is no error to copy others.
PLAIN static void read_defined(Space& s, const char* from, u32 bytes, u32 where) {
    for (u32 i = 0; i < bytes;) {
        u32 n = written(s, from - s.at + i, bytes - i);
        if (n) touch(s, from + i, n, READ, where, shim::me);
        i += n + 1;
    }
}

PLAIN static void copy(const void* to, const void* from, u32 bytes, u32 valid, const void* caller) {
    u32 where = offset(caller);
    Space *target = space_of((const char*)to, bytes), *source = valid ? space_of((const char*)from, valid) : 0;
    if (!target || !target->shared) fail("copy_async goes beyond shared memory");
    if (valid && !source && all_known) outside(shim::me, (const char*)from, valid, READ, where);
    if (source && source->shared) fail("copy_async reads global memory");
    touch(*target, (const char*)to, bytes, WRITE, where, shim::me, PENDING);
    if (!source) return;
    read_defined(*source, (const char*)from, valid, where);
    for (u32 i = 0; i < valid; i++)
        if (!written(*source, (const char*)from - source->at + i)) target->own_cell((const char*)to - target->at + i).write.flags |= UNDEFINED;
}

PLAIN static void copied(const void* to, const void* from, u32 bytes, u32 valid, const void* caller) {
    Space *target = space_of((const char*)to, bytes), *source = valid ? space_of((const char*)from, valid) : 0;
    const u64 begin = (const char*)to - target->at;
    const u32 issued = target->cell(begin).write.epoch;
    for (u64 i = begin; i < begin + bytes; i++) {
        Access& w = target->cell(i).write;
        w = {run, w.where, (u16)epoch, clocks[shim::me], (u16)shim::me, (u16)(w.flags & UNDEFINED)};
    }
    if (!source) return;
    const u64 first = (const char*)from - source->at;
    for (u64 i = first; i < first + valid; i++) {
        const Access& w = source->cell(i).write;
        if (w.run == run && w.thread != shim::me && w.epoch > issued) conflict(shim::me, source, source->at + i, READ, offset(caller), w, WRITE);
    }
    read_defined(*source, (const char*)from, valid, offset(caller));
}

// ---- launches --------------------------------------------------------------------------------------------------------------------

PLAIN static void begin_launch() {
    static u64 mapped;
    static char* memory;
    first_run = run + 1, left_count = place_count = 0, latest = 0;
    memset(places, 0, sizeof places);
    if (memory) munmap(memory, mapped);
    u64 bytes = 0;  // all arrays', in whole words
    for (u32 i = 0; i < space_count; i++) bytes += (spaces[i].bytes + 3) / 4 * 4;
    mapped = bytes * sizeof(Cell) + bytes / 4 + 1;
    memory = (char*)map(mapped);
    Cell* cells = (Cell*)memory;
    u8* split = (u8*)(cells + bytes);
    for (u32 i = 0; i < space_count; i++) {
        spaces[i].cells = cells, spaces[i].split = split;
        cells += (spaces[i].bytes + 3) / 4 * 4, split += (spaces[i].bytes + 3) / 4;
    }
}

PLAIN static void begin_block() {
    run++, epoch = clean = 1, dirty_count = 0, fenced = false;
    memset(clocks, 0, sizeof clocks), memset(seen, 0, sizeof seen), memset(dirty, 0, sizeof dirty);
    memset(fence_epoch, 0, sizeof fence_epoch);
    for (u32 i = 0; i < space_count; i++)
        if (spaces[i].shared) memset((void*)spaces[i].at, 0xff, spaces[i].bytes);
    for (u32 t = 0; t < shim::count; t++) got[t].n = has[t].n = 0;
    block_got.n = block_has.n = 0;
}

PLAIN static void begin_thread() { followed[shim::me] = false; }
}  // namespace sanitizer

extern "C" {
// Tells of the next launch: its arrays, in the order of their addresses, whether there are no others, and its words.
__attribute__((visibility("default"))) PLAIN void graphmill_watch(sanitizer::Space* spaces, unsigned n, int all, const long long* words, unsigned m) {
    sanitizer::spaces = spaces, sanitizer::space_count = n, sanitizer::all_known = all, sanitizer::words = words, sanitizer::word_count = m;
}

#define TSAN_CALLER sanitizer::offset(__builtin_return_address(0))
#define TSAN(name, size)                                                                                                             \
    PLAIN void __tsan_read##name(void* at) { sanitizer::access((const char*)at, size, sanitizer::READ, TSAN_CALLER); }                     \
    PLAIN void __tsan_write##name(void* at) { sanitizer::access((const char*)at, size, sanitizer::WRITE, TSAN_CALLER); }                   \
    PLAIN void __tsan_unaligned_read##name(void* at) { sanitizer::access((const char*)at, size, sanitizer::READ, TSAN_CALLER); }           \
    PLAIN void __tsan_unaligned_write##name(void* at) { sanitizer::access((const char*)at, size, sanitizer::WRITE, TSAN_CALLER); }
TSAN(1, 1)
TSAN(2, 2)
TSAN(4, 4)
TSAN(8, 8)
TSAN(16, 16)
#undef TSAN
PLAIN void __tsan_read_range(void* at, unsigned long n) { sanitizer::access((const char*)at, (unsigned)n, sanitizer::READ, TSAN_CALLER); }
PLAIN void __tsan_write_range(void* at, unsigned long n) { sanitizer::access((const char*)at, (unsigned)n, sanitizer::WRITE, TSAN_CALLER); }
PLAIN void* __tsan_memcpy(void* to, const void* from, unsigned long n) {
    sanitizer::access((const char*)from, (unsigned)n, sanitizer::READ, TSAN_CALLER), sanitizer::access((const char*)to, (unsigned)n, sanitizer::WRITE, TSAN_CALLER);
    return memcpy(to, from, n);
}
PLAIN void* __tsan_memset(void* to, int value, unsigned long n) {
    sanitizer::access((const char*)to, (unsigned)n, sanitizer::WRITE, TSAN_CALLER);
    return memset(to, value, n);
}
#undef TSAN_CALLER
PLAIN void __tsan_init() {}
PLAIN void __tsan_func_entry(void*) {}
PLAIN void __tsan_func_exit() {}
}
