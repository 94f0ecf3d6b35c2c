"""Where the values of a segment lie in one block of memory."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.recording import greatest, is_size, value_of
from ..kernels.cpu.launch import address_of

ALIGN = 64
BYTE = np.dtype(np.uint8)
MOST_BOUND = 32  # signatures that are kept, for a place in a plan and for an arena

FOREVER = 1 << 60
SMALL = 1 << 20  # bytes of an arena that need no better order
MOMENTS = 8


@dataclass(eq=False)
class Buffer:
    """Bytes that are written first by row `first` of a segment and read last by row `last` (FOREVER: they outlive it); `offset`
    is where they lie. A buffer `within` another one is no memory of its own: its bytes are those of the other one from `at` on."""

    nbytes: int
    first: int
    last: int
    offset: int = -1
    within: Buffer | None = None
    at: int = 0

    def root(self) -> Buffer:
        """The buffer that has the memory."""
        b = self
        while b.within is not None:
            b = b.within
        return b

    def start(self) -> int:
        """Where its bytes start in those of its root."""
        at, b = self.at, self
        while b.within is not None:
            b = b.within
            at += b.at
        return at


def assign(buffers: Iterable[Buffer]) -> int:
    """Gives each buffer an offset, a multiple of 64, so that no two overlap that live at the same time; the bytes of all.

    Buffers are placed in the order in which they are written, each into the smallest hole that holds it (best fit).
    """
    order = sorted(buffers, key=lambda b: b.first)
    ends = sorted(order, key=lambda b: b.last)
    holes: dict[int, int] = {}  # bytes by offset; never two side by side
    top = done = 0
    for b in order:
        while done < len(ends) and ends[done].last < b.first:
            _free(holes, ends[done])
            done += 1
        size = _rounded(b.nbytes)
        at = min((o for o in holes if holes[o] >= size), key=lambda o: (holes[o], o), default=None)
        if at is None:  # grow, from a hole at the end if there is one
            at = next((o for o in holes if o + holes[o] == top), top)
            holes[at] = size
            top = at + size
        rest = holes.pop(at) - size
        if rest:
            holes[at + size] = rest
        b.offset = at
    return top


def _rounded(nbytes: int) -> int:
    return max(ALIGN, -(-nbytes // ALIGN) * ALIGN)


def stack(buffers: Iterable[Buffer]) -> int:
    """Gives buffers of recorded sizes their offsets, and tells the bytes of all, as expressions.

    Best fit on the sizes that they have now tells which buffer lies above which. For other sizes each lies as low as the buffers
    allow that it lies above and that live at the same time. So no two of those ever overlap, whatever the sizes; and a guard on
    the bytes of all sees to it that best fit is asked again where the order has become a bad one.
    """
    buffers = list(buffers)
    now = [Buffer(value_of(b.nbytes), b.first, b.last) for b in buffers]
    assign(now)
    sizes = [greatest((b.nbytes + (ALIGN - 1)) // ALIGN * ALIGN, ALIGN) for b in buffers]
    below = _directly_below(now)
    for i in sorted(range(len(buffers)), key=lambda i: now[i].offset):
        buffers[i].offset = greatest(*(buffers[j].offset + sizes[j] for j in below[i])) if below[i] else 0
    top = set(range(len(buffers))).difference(*below)
    total, needed = greatest(0, *(buffers[i].offset + sizes[i] for i in top)), _alive_at_once(buffers, sizes)
    allowed = needed * (value_of(total) * 11) // (10 * max(value_of(needed), 1))
    if total > greatest(allowed, SMALL):  # it is not so now: this is the guard
        raise AssertionError(f"{total} bytes, where {allowed} were expected")
    return total


def _alive_at_once(buffers: Sequence[Buffer], sizes: Sequence[int]) -> int:
    """The most bytes that live at the same time, of the few moments when the most do now."""
    order = sorted(range(len(buffers)), key=lambda i: buffers[i].first)
    ends = sorted(order, key=lambda i: buffers[i].last)
    live: set[int] = set()
    moments: dict[frozenset[int], int] = {}  # recorded sizes that live together, and how many bytes of other sizes with them
    done = fixed = 0
    for i in order:
        while buffers[ends[done]].last < buffers[i].first:
            k, done = ends[done], done + 1
            live.discard(k)
            fixed -= 0 if is_size(sizes[k]) else sizes[k]
        if is_size(sizes[i]):
            live.add(i)
        else:
            fixed += sizes[i]
        key = frozenset(live)
        moments[key] = max(moments.get(key, 0), fixed)
    most = sorted(moments, key=lambda m: moments[m] + sum(value_of(sizes[i]) for i in m))[-MOMENTS:]
    return greatest(0, *(moments[m] + sum(sizes[i] for i in sorted(m)) for m in most))


def _directly_below(buffers: Sequence[Buffer]) -> list[set[int]]:
    """For each buffer, which lie next below it in the moment when it, or they, are first written. All that live at the same time
    are connected by chains of such neighbours."""
    below: list[set[int]] = [set() for _ in buffers]
    live: list[tuple[int, int]] = []  # offsets and numbers, by offset
    for i in sorted(range(len(buffers)), key=lambda i: buffers[i].first):
        live = [(offset, j) for offset, j in live if buffers[j].last >= buffers[i].first]
        at = bisect(live, (buffers[i].offset, i))
        if at:
            below[i].add(live[at - 1][1])
        if at < len(live):
            below[live[at][1]].add(i)
        live.insert(at, (buffers[i].offset, i))
    return below


def _free(holes: dict[int, int], b: Buffer) -> None:
    at, size = b.offset, _rounded(b.nbytes)
    size += holes.pop(at + size, 0)
    before = next((o for o in holes if o + holes[o] == at), None)
    if before is not None:
        size += holes.pop(before)
        at = before
    holes[at] = size


def aligned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An uninitialised C-contiguous array at a 64-byte boundary."""
    n = math.prod(shape) * dtype.itemsize
    raw = np.empty(n + ALIGN, np.uint8)
    start = -address_of(raw) % ALIGN
    return raw[start : start + n].view(dtype).reshape(shape)


def aligned_copy(a: np.ndarray) -> np.ndarray:
    """A C-contiguous copy at a 64-byte boundary."""
    out = aligned(a.shape, a.dtype)
    out[...] = a
    return out


def as_aligned(a: np.ndarray) -> np.ndarray:
    """A constant at a 64-byte boundary: as it lies where it lies so and nobody can write it (it is mapped), else a copy."""
    if not a.flags.writeable and a.flags.c_contiguous and a.ctypes.data % ALIGN == 0:
        return a
    return aligned_copy(a)
