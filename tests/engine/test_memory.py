"""Buffers of a segment never overlap while they live; an arena serves several segments."""

from __future__ import annotations

import numpy as np
from graphmill.engine.memory import ALIGN, Buffer, aligned, assign
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
