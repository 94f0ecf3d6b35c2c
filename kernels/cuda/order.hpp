// What orders the accesses of threads, after the PTX ISA's memory consistency model, for sanitizer.hpp, which stands behind this:
//   - a barrier of the block, all threads of the block; __syncwarp, the lanes of its mask;
//   - nothing of a warp's other operations: shuffles, votes, mma and ldmatrix let lanes meet, but say nothing of memory;
//   - copy_async_wait, the copies of its own thread before what this does from then on;
//   - blocks of a launch, only an atomic that finds what another block's has left at the same place, with a fence before that one and
//     behind this one. A fence covers what its thread did, and what a barrier before it has ordered; fences of all threads and then a
//     barrier cover what all did. What a block has so learned of others it does not pass on to a third.
// Atomics race with all but atomics. A launch begins when the one before is done.
//
// Time is counted in epochs, of which each barrier of the block begins one, and in each lane's clock, which __syncwarp and fences push
// on: so two accesses are compared without clocks of all threads for each (FastTrack: Flanagan and Freund, 2009, does it alike). Of
// the reads of a byte two are kept, of different warps or blocks if there are such, so that a write is ordered behind all readers
// if it is behind these; it takes a __syncwarp of part of a warp for one to be overlooked.
namespace sanitizer {
using shim::fail;
using shim::MOST;
using shim::u32;
using shim::u64;
typedef unsigned short u16;
typedef unsigned char u8;

// run: the number of the block since the library was loaded, 0 if there is none; where: the caller's offset in the library.
struct Access { u32 run, where; u16 epoch, clock, thread, flags; };

static u32 run, first_run, epoch;  // first_run: of the launch
static u16 clocks[MOST], seen[MOST][32];  // of another lane: its accesses before this are ordered before what comes
static bool warps_met;

// ---- what other blocks have published --------------------------------------------------------------------------------------------

// What an atomic at a place leaves for those that find it: accesses of its block before epoch `below`, and its thread's own up to a
// moment. A place's list grows at its head, so that a head is all that had been left by then.
struct Left { const char* at; u32 run, below; u16 thread, epoch, clock; const Left* next; };
struct Found { u32 n; const Left* of[8]; };

static const u32 MOST_LEFT = 1 << 17, PLACES = 1 << 12;
static Left left[MOST_LEFT];
static const Left* places[PLACES];
static u32 left_count, place_count, dirty_count, clean;
static bool fenced;  // any of the block's threads
static bool dirty[MOST];  // touched global memory since its last fence
static u16 fence_epoch[MOST], fence_clock[MOST];
static Found got[MOST], has[MOST], block_got, block_has;  // what atomics found: before a fence, behind it

PLAIN static void join(Found& to, const Found& from) {
    for (u32 i = 0; i < from.n; i++) {
        u32 j = 0;
        while (j < to.n && to.of[j]->at != from.of[i]->at) j++;
        if (j == 8) fail("the sanitizer follows up to 8 counters of a thread");
        if (j == to.n) to.of[to.n++] = from.of[i];
        else if (from.of[i] > to.of[j]) to.of[j] = from.of[i];  // the later one, which leads to the other
    }
}

PLAIN static void exchange(const char* at) {
    u32 slot = (u32)((u64)at * 0x9E3779B97F4A7C15ull >> 52), me = shim::me;
    while (places[slot] && places[slot]->at != at) slot = (slot + 1) % PLACES;
    if (places[slot]) join(got[me], {1, {places[slot]}});
    if (!fenced) return;
    u32 below = fence_epoch[me] > clean ? fence_epoch[me] : clean;
    if (!places[slot] && ++place_count == PLACES) fail("the sanitizer follows up to 4095 counters of a launch");
    if (left_count == MOST_LEFT) fail("the sanitizer follows up to 2^17 atomics behind fences of a launch");
    left[left_count] = {at, run, below, (u16)me, fence_epoch[me], fence_clock[me], places[slot]};
    places[slot] = &left[left_count++];
}

PLAIN static bool published(const Found& found, const Access& a) {
    for (u32 i = 0; i < found.n; i++)
        for (const Left* l = found.of[i]; l; l = l->next)
            if (l->run == a.run && (a.epoch < l->below || (a.thread == l->thread && (a.epoch < l->epoch || (a.epoch == l->epoch && a.clock <= l->clock)))))
                return true;
    return false;
}

// ---- what orders accesses --------------------------------------------------------------------------------------------------------

PLAIN static void fence() {
    u32 t = shim::me;
    fenced = true;
    fence_epoch[t] = (u16)epoch, fence_clock[t] = clocks[t];
    if (++clocks[t] == 0) fail("the sanitizer counts up to 65535 fences between barriers");
    dirty_count -= dirty[t], dirty[t] = false;
    join(has[t], got[t]), join(has[t], block_got);
}

PLAIN static void barrier() {
    if (++epoch > 65535) fail("the sanitizer counts up to 65534 barriers of a block");
    if (!dirty_count) clean = epoch;
    if (left_count)
        for (u32 t = 0; t < shim::count; t++) {
            join(block_got, got[t]), join(block_has, has[t]);
            got[t].n = has[t].n = 0;
        }
    if (warps_met) memset(seen, 0, sizeof seen), warps_met = false;
    memset(clocks, 0, sizeof clocks);
}

PLAIN static void warp(u32 mask) {
    u32 first = shim::me & ~31u;
    u16 all[32] = {};
    for (u32 t = first; t < first + 32; t++) {
        if (!(mask >> (t - first) & 1)) continue;
        seen[t][t - first] = ++clocks[t];
        if (!clocks[t]) fail("the sanitizer counts up to 65535 __syncwarp between barriers");
        for (u32 l = 0; l < 32; l++) all[l] = seen[t][l] > all[l] ? seen[t][l] : all[l];
    }
    for (u32 t = first; t < first + 32; t++)
        if (mask >> (t - first) & 1) memcpy(seen[t], all, sizeof all);
    warps_met = true;
}

// Whether what was done before comes before what thread t does now.
PLAIN static bool ordered(const Access& a, u32 t, bool shared) {
    if (a.run == run) return a.thread == t || a.epoch < epoch || (a.thread / 32 == t / 32 && a.clock < seen[t][a.thread % 32]);
    if (shared || a.run < first_run) return true;
    return left_count && (published(has[t], a) || published(block_has, a));
}
}  // namespace sanitizer
