"""Binding a segment again for other sizes, by what was recorded when it was bound before.

The first signature of a segment is bound by walking its steps. At the second one the walk is *recorded*: it runs on sizes that
write down what is done to them (`ir/recording.py`), and what it finds becomes a `Recipe`: a Python function from the signature to
all numbers of the bound segment that differ from one signature to the next (or to None, where a decision of the walk would be
another), and the arrays into which these numbers are spread. A signature that no recipe fits is walked and recorded again; where
several recordings in a row were of no use for a later signature, it is only walked.

How much memory a run may still claim does not follow from its sizes alone, and is asked each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..ir.core import Value
from ..ir.recording import Tape, greatest, is_size
from ..kernels.cpu.launch import ROW
from .binder import MOST_CONTENTS, Binder, takes_contents_as_sizes
from .bound import Bound, Parameters, Place
from .device import fetch
from .draft import Draft, draft_of
from .memory import FOREVER, Buffer, aligned_copy, stack
from .steps import Frame, Step

MOST_RECIPES = 8  # of one segment
MOST_IN_VAIN = 8  # recordings that no later signature has used, after which a segment is recorded no more


class Signature(NamedTuple):
    """What a bound segment depends on, as a recipe's function takes it."""

    shapes: tuple[tuple[int, ...], ...]  # of what it reads
    names: tuple[str, ...]  # of the symbols known before it
    symbols: tuple[int, ...]
    contents: tuple[Any, ...]  # of what sizes hang on: a list of integers where they are few, else bytes; None if too many


class Misfit(Exception):
    """A recipe, or recording at all, is of no use for a signature."""


class Recipes:
    """Binds one segment for one signature after another. For one thread at a time."""

    def __init__(self, steps: Sequence[Step], start: int, reads: list[Value], contents: list[Value]):
        self._segment = steps, start
        self._reads, self._contents = reads, contents
        self._recipes: list[Recipe] = []  # the latest used first
        self._reached: int | None = None  # how many steps the walks without recording bound, at most
        self._in_vain = 0

    def bind(self, frame: Frame) -> Bound | None:
        """The segment bound for the frame's sizes; None where not even its first step can be bound."""
        signature = self._signature(frame)
        for i, recipe in enumerate(self._recipes):
            try:
                bound = recipe.bind(signature, frame)
            except Misfit:
                continue
            self._recipes.insert(0, self._recipes.pop(i))
            self._in_vain = 0
            return bound
        if self._reached is not None and self._in_vain < MOST_IN_VAIN:
            self._in_vain += 1
            try:
                return self._record(signature, frame)
            except Misfit:
                pass
        binder = Binder(*self._segment, frame, self._reads, self._contents)
        binder.walk()
        self._reached = max(self._reached or 0, len(binder.steps))
        return draft_of(binder).bound() if binder.steps else None

    def _signature(self, frame: Frame) -> Signature:
        values, symbols = frame.values, frame.symbols
        contents = tuple([_contents(values[v]) for v in self._contents])
        return Signature(tuple([values[v].shape for v in self._reads]), tuple(symbols), tuple(symbols.values()), contents)

    def _record(self, signature: Signature, frame: Frame) -> Bound | None:
        """Walks the segment on recorded sizes and keeps the recipe."""
        binder = Binder(*self._segment, frame, self._reads, self._contents, Tape())
        try:
            binder.walk()
            if binder.limited or len(binder.steps) < (self._reached or 0):  # it came to what a recorded size cannot do
                raise Misfit
            recipe = Recipe(binder, signature.names)
        except Exception as e:  # whatever it is: a walk without recording will do it, or say what is wrong
            raise Misfit from e
        bound = recipe.bind(signature, frame)
        self._recipes = [recipe, *self._recipes[: MOST_RECIPES - 1]]
        return bound


def _contents(x: Any) -> Any:
    if x.size > MOST_CONTENTS:
        return None
    x = fetch(x)
    return x.ravel().tolist() if takes_contents_as_sizes(x) else x.tobytes()


class Recipe:
    """How a segment is bound for all signatures on which a recorded walk decides the same."""

    def __init__(self, binder: Binder, names: tuple[str, ...]):
        assert binder.tape is not None
        self._names, numbers, rest = names, list[Any](), ()
        self._maker = None
        if binder.steps:
            draft = draft_of(binder, stack)
            self._maker = _Maker(draft, numbers)
            rest = _per_signature(draft)
        self._function = binder.tape.function("shapes, symbols, contents", (greatest(0, *binder.claims), numbers, *rest))

    def bind(self, signature: Signature, frame: Frame) -> Bound | None:
        """The bound segment, None where not even its first step can be bound. Raises Misfit where a walk might come to another
        one, or to an error."""
        if signature.names != self._names:
            raise Misfit
        try:
            found = self._function(signature.shapes, signature.symbols, signature.contents)
            if found is None or not frame.budget.fits(found[0]):
                raise Misfit
            numbers = np.array(found[1], np.int64)
        except (ArithmeticError, IndexError, ValueError) as e:  # a number beyond 64 bits, or that an opaque function refuses
            raise Misfit from e
        return None if self._maker is None else self._maker.bound(numbers, *found[2:])


def _per_signature(draft: Draft) -> tuple[Any, ...]:
    """What `_Maker.bound` takes beside the numbers."""
    shapes = [p.shape for _, p in draft.results]
    return draft.arena, [b.nbytes for b in draft.outputs], shapes, [at for at, _ in draft.checked], draft.symbols


class _Maker:
    """Makes bound segments of a draft: what is the same for all of them, and where the numbers go that are not."""

    def __init__(self, draft: Draft, numbers: list[Any]):
        self._stop, self._name, self._inputs, self._dead = draft.stop, draft.name, draft.inputs, draft.dead
        self._relative, self._patched, self._keep = draft.relative, draft.patched, draft.keep
        self._block = _Spread([*draft.words, *(x for row in draft.table for x in row)], numbers)
        self._words = len(draft.words)
        self._checked, self._kernels = [step for _, step in draft.checked], draft.kernels
        self._facts = _Facts(draft, numbers)
        self._results = [_Result.of(v, p, draft, self._facts) for v, p in draft.results]

    def bound(
        self, numbers: np.ndarray, arena: int, nbytes: Sequence[int], shapes: Sequence[tuple[int, ...]], checked: Sequence[int],
        symbols: dict[str, int],
    ) -> Bound:  # fmt: skip
        block = self._block.fill(numbers)
        words, table = block[: self._words], block[self._words :].reshape(-1, ROW)
        facts = self._facts.fill(numbers, words)
        outputs = [Buffer(n, 0, FOREVER) for n in nbytes]
        results = [(r.value, r.place(shape, outputs, facts)) for r, shape in zip(self._results, shapes)]
        keep = self._keep if facts is None else [*self._keep, facts]
        parameters = Parameters(words, self._relative, self._patched, table, keep)
        return Bound(self._stop, self._name, symbols, self._inputs, outputs, results, self._dead, arena, parameters,
                     list(zip(checked, self._checked)), self._kernels)  # fmt: skip


class _Spread:
    """A list of int64 of which some follow from recorded sizes. The latter are numbered in `numbers`, each once."""

    def __init__(self, words: Sequence[Any], numbers: list[Any]):
        number = {x.name: i for i, x in enumerate(numbers)}
        at = [i for i, x in enumerate(words) if is_size(x)]
        for i in at:
            if words[i].name not in number:
                number[words[i].name] = len(numbers)
                numbers.append(words[i])
        self._constant = np.array([0 if is_size(x) else x for x in words], np.int64)
        self._at = np.array(at, np.intp)
        self._which = np.array([number[words[i].name] for i in at], np.intp)

    def fill(self, numbers: np.ndarray) -> np.ndarray:
        """The list for these numbers."""
        out = self._constant.copy()
        out[self._at] = numbers[self._which]
        return out


class _Facts:
    """Integers that follow from sizes and that kernels read as tensors, in one block: each tensor at a multiple of 64 bytes."""

    def __init__(self, draft: Draft, numbers: list[Any]):
        tensors = [p.sizes for _, p in draft.results if p.sizes is not None] + [t for _, t in draft.computed]
        entries: list[Any] = []
        self._start: dict[int, int] = {}  # by the identity of the tensor's sizes
        for t in tensors:
            if id(t) not in self._start:
                entries += [0] * (-len(entries) % 8)
                self._start[id(t)] = len(entries)
                entries += t.tolist()
        self._entries = _Spread(entries, numbers)
        self._empty = not entries
        self._device = draft.device
        self._pointers = np.array([at for at, _ in draft.computed], np.intp)
        self._offsets = np.array([8 * self._start[id(t)] for _, t in draft.computed], np.int64)

    def start(self, sizes: np.ndarray) -> int:
        return self._start[id(sizes)]

    def fill(self, numbers: np.ndarray, words: np.ndarray) -> np.ndarray | None:
        """The block, its address in the words that point into it; None if there is nothing in it."""
        if self._empty:
            return None
        block = aligned_copy(self._entries.fill(numbers))
        block.flags.writeable = False
        words[self._pointers] = self._offsets + self._device.constant(block)
        return block


class _Result(NamedTuple):
    """A value that lives after the segment, but for its shape."""

    value: Value
    dtype: np.dtype
    output: int | None  # the buffer that it lies in
    outer: Value | None
    array: np.ndarray | None
    start: int | None  # in the block of facts

    @staticmethod
    def of(v: Value, p: Place, draft: Draft, facts: _Facts) -> _Result:
        output = None if p.buffer is None else draft.outputs.index(p.buffer.root())
        return _Result(v, p.dtype, output, p.outer, p.array, None if p.sizes is None else facts.start(p.sizes))

    def place(self, shape: tuple[int, ...], outputs: list[Buffer], facts: np.ndarray | None) -> Place:
        if self.output is not None:
            return Place(shape, self.dtype, outputs[self.output])
        if self.start is None or self.outer is not None:
            return Place(shape, self.dtype, None, self.outer, None if self.array is None else self.array.reshape(shape))
        assert facts is not None
        return Place(shape, self.dtype, array=facts[self.start : self.start + math.prod(shape)].reshape(shape))
