"""Buffers of a segment never overlap while they live; an arena serves several segments."""

from __future__ import annotations

import numpy as np
from graphmill.engine.memory import ALIGN, Buffer, aligned, assign, stack
from graphmill.ir.recording import Tape, value_of
from hypothesis import given
from hypothesis import strategies as st

lives = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 12), st.integers(0, 6)), max_size=30)


@given(lives)
def test_no_two_that_live_at_once_overlap(found: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(n, first, first + length) for n, first, length in found]
    total = assign(buffers)
    for i, a in enumerate(buffers):
        assert a.offset >= 0 and a.offset % ALIGN == 0 and a.offset + a.nbytes <= total
        for b in buffers[:i]:
            apart = a.offset + max(a.nbytes, 1) <= b.offset or b.offset + max(b.nbytes, 1) <= a.offset
            assert apart or a.last < b.first or b.last < a.first


def test_memory_is_used_again() -> None:
    chain = [Buffer(1000, i, i + 1) for i in range(50)]
    assert assign(chain) == 2 * 1024
    assert len({b.offset for b in chain}) == 2


def test_a_hole_at_the_end_grows() -> None:
    assert assign([Buffer(64, 0, 0), Buffer(128, 1, 1)]) == 128


def test_a_buffer_within_another() -> None:
    a = Buffer(64, 0, 3)
    b = Buffer(64, 1, 2, within=a)
    assert Buffer(64, 2, 3, within=b).root() is a and a.root() is a


def test_aligned() -> None:
    for shape in [(), (0,), (3, 5)]:
        a = aligned(shape, np.dtype(np.float64))
        assert a.shape == shape and a.flags.c_contiguous and (a.ctypes.data % ALIGN == 0 or not a.size)


@given(lives, st.lists(st.integers(0, 900), min_size=4, max_size=4), st.lists(st.integers(0, 900), min_size=4, max_size=4))
def test_recorded_buffers_never_overlap_for_other_sizes(
    found: list[tuple[int, int, int]], now: list[int], later: list[int]
) -> None:
    tape = Tape()
    sizes = [tape.size(f"n[{i}]", n) for i, n in enumerate(now)]
    buffers = [Buffer(sizes[n % 4] * (n % 3) + n // 7, first, first + length) for n, first, length in found]
    total = stack(buffers)
    least = assign(plain := [Buffer(value_of(b.nbytes), b.first, b.last) for b in buffers])
    assert value_of(total) <= least  # no worse than best fit on the sizes of now
    again = tape.function("n", (total, [b.offset for b in buffers], [b.nbytes for b in buffers]))
    assert again(now) == (value_of(total), tuple(value_of(b.offset) for b in buffers), tuple(b.nbytes for b in plain))
    for given_ in (later, [7 * n for n in later], now[::-1]):
        answer = again(given_)
        if answer is not None:
            assert_apart(buffers, *answer)


def assert_apart(buffers: list[Buffer], total: int, offsets: tuple[int, ...], nbytes: tuple[int, ...]) -> None:
    for i, a in enumerate(buffers):
        assert offsets[i] % ALIGN == 0 and offsets[i] >= 0 and offsets[i] + nbytes[i] <= total
        for j, b in enumerate(buffers[:i]):
            apart = offsets[i] + max(nbytes[i], 1) <= offsets[j] or offsets[j] + max(nbytes[j], 1) <= offsets[i]
            assert apart or a.last < b.first or b.last < a.first


def test_a_large_arena_whose_order_became_a_bad_one_is_refused() -> None:
    """The third of three buffers does not fit below the second, where the first has died: it lies on top, whatever comes."""
    tape = Tape()
    sizes = [tape.size(f"n[{i}]", n) for i, n in enumerate((1 << 18, 1 << 18, 1 << 20))]
    total = stack(Buffer(n, first, last) for n, first, last in zip(sizes, (0, 0, 3), (1, 3, 4)))
    again = tape.function("n", (total,))
    assert again((1 << 18, 1 << 18, 1 << 20)) == (3 << 19,)
    assert again((1 << 20, 1 << 20, 1 << 22)) == (3 << 21,)
    assert again((1 << 26, 64, 1 << 26)) is None  # 128 MB, where 64 are enough
    assert again((1 << 12, 64, 1 << 12)) == (64 + (1 << 13),)  # not worth a walk
