"""Holds what a recipe makes against what a walk of the segment's steps makes.

from .rebinding import checked_recipes
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from graphmill.engine import rebind
from graphmill.engine.binder import Binder
from graphmill.engine.bound import Bound
from graphmill.engine.device import Device
from graphmill.engine.draft import draft_of
from graphmill.engine.memory import ALIGN
from graphmill.engine.steps import Frame


@dataclass
class Seen:
    """How many signatures were bound by a recipe, how many walks were recorded, and the arenas' bytes beside those by best fit."""

    rebound: int = 0
    recorded: int = 0
    arena: int = 0
    best_fit: int = 0


@contextmanager
def checked_recipes() -> Iterator[Seen]:
    """While it is open, whatever any recipe makes is compared with a walk."""
    seen, bind, make, ask = Seen(), rebind.Recipe.bind, rebind.Recipe.__init__, rebind.Recipes.bind
    asked: list[rebind.Recipes] = []

    def checked_ask(self: rebind.Recipes, frame: Frame) -> Bound | None:
        asked.append(self)
        try:
            return ask(self, frame)
        finally:
            asked.pop()

    def checked_bind(self: rebind.Recipe, signature: rebind.Signature, frame: Frame) -> Bound | None:
        got = bind(self, signature, frame)
        recipes = asked[-1]
        binder = Binder(*recipes._segment, frame, recipes._reads, recipes._contents)
        binder.walk()
        want = draft_of(binder).bound() if binder.steps else None
        seen.rebound += 1
        if want is None or got is None:
            assert want is got
            return got
        assert_same(got, want, frame.workspace.device)
        seen.arena += got.arena
        seen.best_fit += want.arena
        return got

    def counted_make(self: rebind.Recipe, *args: object) -> None:
        seen.recorded += 1
        make(self, *args)  # type: ignore[arg-type]

    rebind.Recipe.bind, rebind.Recipe.__init__, rebind.Recipes.bind = checked_bind, counted_make, checked_ask  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        rebind.Recipe.bind, rebind.Recipe.__init__, rebind.Recipes.bind = bind, make, ask  # type: ignore[method-assign]


def assert_same(got: Bound, want: Bound, device: Device) -> None:
    """Equal in every word but for places in the arena, which must only be aligned and inside of it."""
    assert (got.stop, got.name, got.symbols) == (want.stop, want.name, want.symbols)
    assert got.inputs == want.inputs and set(got.dead) == set(want.dead)
    assert [b.nbytes for b in got.outputs] == [b.nbytes for b in want.outputs]
    assert all(type(n) is int for n in [got.arena, *got.symbols.values(), *(b.nbytes for b in got.outputs)])
    p, q = got.parameters, want.parameters
    assert p.patched == q.patched
    np.testing.assert_array_equal(p.relative, q.relative)
    np.testing.assert_array_equal(p.table[:, :3], q.table[:, :3])
    np.testing.assert_array_equal(p.table[:, 3] < 0, q.table[:, 3] < 0)
    places, expected = p.words[p.relative == 1], q.words[p.relative == 1]
    assert ((places - expected) % ALIGN == 0).all() and (places >= 0).all() and (places < max(got.arena, 1)).all()
    for i in np.nonzero((p.words != q.words) & (p.relative == 0))[0]:  # addresses of integers that follow from sizes, of tables
        expected = next(k for k in q.keep if device.constant(k) == q.words[i])
        there = next(k for k in reversed(p.keep) if 0 <= int(p.words[i]) - device.constant(k) < max(k.nbytes, 1))
        start = (int(p.words[i]) - device.constant(there)) // 8
        np.testing.assert_array_equal(there.ravel()[start : start + expected.size], expected.ravel())
    assert [step for _, step in got.checked] == [step for _, step in want.checked]
    for (v, x), (w, y) in zip(got.results, want.results, strict=True):
        assert v is w and (x.shape, x.dtype, x.outer) == (y.shape, y.dtype, y.outer)
        assert all(type(d) is int for d in x.shape)
        assert (x.buffer is None) == (y.buffer is None) and (x.array is None) == (y.array is None)
        if x.buffer is not None and y.buffer is not None:
            assert got.outputs.index(x.buffer.root()) == want.outputs.index(y.buffer.root())
        if x.array is not None and y.array is not None:
            np.testing.assert_array_equal(x.array, y.array)
            assert not x.array.flags.writeable or y.array.flags.writeable
