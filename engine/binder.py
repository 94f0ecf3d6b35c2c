"""Binding a segment: its steps are walked with values that have a shape and no contents.

The walk finds all sizes, asks every kernel's `bind` for its parameters and tiles, and knows from where to where each value lives.
With a tape it runs on recorded sizes (see `recording.py`): then what it finds is expressions, from which `rebind.py` makes the
bound segment for other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.core import Value
from ..ir.errors import GraphmillError, LimitError
from ..ir.interp import bind_dims
from ..ir.layout import physical
from ..ir.recording import Tape, is_size, value_of
from ..ir.symbols import Unbound, evaluate
from ..ir.types import I64, TensorType
from ..kernels.boxes import Box, Mover
from ..kernels.spec import Call, Launch
from .bound import Place
from .device import fetch
from .memory import BYTE, Buffer, aligned_copy
from .pieces import compute_within, kept_values, piece
from .sizes import Shaped, nbytes_of_shape, result_shapes
from .steps import Frame, KernelStep, SizeStep, Step, ViewStep

MOST_CONTENTS = 1 << 12  # elements of an operand whose contents are part of a signature
MOST_FREE = 16  # elements of such an operand of integers that a recording takes as sizes


class Cut(Exception):
    """A step cannot be bound before what is before it has run."""


@dataclass
class Row:
    """A kernel of a segment, or one of its passes: what its parameters point to, in their order, the integers behind them, how many
    tiles it has."""

    step: KernelStep
    pointers: list[Place]
    scratch: Buffer
    ints: tuple[int, ...]
    tiles: int


class Binder:
    """Binds one segment for one signature: what `frame` holds of the values that it `reads`, of some of them the `contents`.

    After `walk` there are the steps that could be bound, their rows and buffers, and in `claims` the bytes that kernels ask for.
    """

    def __init__(
        self, steps: Sequence[Step], start: int, frame: Frame, reads: list[Value], contents: list[Value], tape: Tape | None = None
    ):
        self.steps, self.start, self.tape = steps, start, tape
        self.outside = set(reads)
        self._given = frame, reads, contents
        self.device = frame.workspace.device

    def walk(self) -> None:
        """Walks the steps as far as they can be bound, and forgets the others."""
        self._walk()
        while any(v in self.places and self._is_lent(v) for v in kept_values(self.steps)):  # some only because of where it ended
            self._walk()

    def _walk(self) -> None:
        self._begin()
        bound = 0
        try:
            for step in self.steps:
                self._step(step)
                bound += 1
        except (Cut, GraphmillError, ValueError) as e:  # run by itself, the step will say what is wrong
            self.limited = isinstance(e, LimitError)
        self.steps = self.steps[:bound]

    def _begin(self) -> None:
        (frame, reads, contents), tape = self._given, self.tape
        self.frame = Frame({}, dict(frame.symbols), frame.budget)  # of values without contents
        self.places: dict[Value, Place] = {}
        self.rows: list[Row] = []
        self.buffers: list[Buffer] = []
        self.claims: list[int] = []
        self.limited = False  # whether what a run may hold was what ended the walk
        self._kept = kept_values(self.steps)
        self._pieces: set[Value] = set()
        self._own: set[Buffer] = set()  # of what is kept
        if tape is not None:
            for i, (s, n) in enumerate(frame.symbols.items()):
                self.frame.symbols[s] = tape.size(f"symbols[{i}]", n)  # type: ignore[assignment]  # as good as an int
        for i, v in enumerate(reads):
            x = frame.values[v]
            at = contents.index(v) if v in contents else None
            if at is not None and x.size > MOST_CONTENTS:
                if tape is not None:
                    tape.guard(f"contents[{at}] is None")
                at = None
            if tape is None:
                shape, self.frame.values[v] = x.shape, Shaped(x.shape, x.dtype) if at is None else fetch(x)
            else:
                shape = self._recorded_shape(tape, i, v, x.shape, at is not None)
                self.frame.values[v] = Shaped(shape, x.dtype) if at is None else _recorded_contents(tape, at, fetch(x))
            self.places[v] = Place(shape, x.dtype, outer=v)

    def _is_lent(self, v: Value) -> bool:
        """Whether a value lies in memory of another one that may be larger."""
        b = self.places[v].buffer
        return v in self._pieces or (b is not None and b.within is not None)

    def _recorded_shape(self, tape: Tape, i: int, v: Value, shape: tuple[int, ...], fixed: bool) -> tuple[int, ...]:
        """The physical shape of read number i: by its type where the symbols are known, else sizes of their own."""
        declared: Sequence[Any] = [None] * len(shape)
        if isinstance(v.type, TensorType) and v.type.shape is not None:
            declared = physical(v.type.shape, v.type.layout)
        tape.guard(f"len(shapes[{i}]) == {len(shape)}")
        dims: list[Any] = []
        for a, (d, n) in enumerate(zip(declared, shape, strict=True)):
            size = n if fixed else self._declared(d)
            dims.append(size if size is not None and value_of(size) == n else tape.size(f"shapes[{i}][{a}]", n))
        tape.guard_equal(f"shapes[{i}]", tuple(dims))
        return tuple(dims)

    def _declared(self, d: Any) -> int | None:
        try:
            return None if d is None else self.frame.evaluate(d)
        except (Unbound, ValueError):
            return None

    # ---- steps

    def _step(self, step: Step) -> None:
        if isinstance(step, KernelStep):
            self._kernel(step)
        elif isinstance(step, ViewStep):
            self._view(step)
        else:
            assert isinstance(step, SizeStep)
            self._sizes(step)

    def _sizes(self, step: SizeStep) -> None:
        (v,) = step.node.results
        x = self._recorded_sizes(step) if self.tape is not None else None
        if x is not None:
            assert x.contents is not None
            self.frame.values[v] = x
            self.places[v] = Place(x.shape, x.dtype, sizes=x.contents.reshape(-1))
            return
        step.run(self.frame)
        array = aligned_copy(self.frame.values[v])
        array.flags.writeable = False
        self.frame.values[v] = array
        self.places[v] = Place(array.shape, array.dtype, array=array)

    def _recorded_sizes(self, step: SizeStep) -> Shaped | None:
        """What a size step computes, where it follows from recorded sizes."""
        node, t = step.node, step.node.results[0].tensor
        if node.op.name == "dims":
            found: list[Any] = [evaluate(d, self.frame.symbols) for d in node.attr("value")]
            shape: tuple[int, ...] = () if node.attr("scalar") else (len(found),)
        else:
            dims = self._shape(node.operands[0])
            assert dims is not None
            found = [math.prod(dims)] if node.op.name == "size" else list(dims[node.attr("start") : node.attr("end")])
            shape = () if node.op.name == "size" else (len(found),)
        if t.dtype is not I64 or not any(is_size(x) for x in found):
            return None
        contents = np.empty(len(found), object)
        contents[:] = found
        return Shaped(shape, t.dtype.np, contents.reshape(shape))

    def _view(self, step: ViewStep) -> None:
        (result,), operand = step.node.results, step.node.operands[0]
        assert operand is not None
        logical = result_shapes(step.node, self.frame)[0]
        shape = physical(logical, result.tensor.layout)
        x = self.frame.get(operand)
        if operand.is_const:
            self.places[result] = Place(shape, x.dtype, array=aligned_copy(x).reshape(shape))
        else:
            p = self.places[operand]
            array = None if p.array is None else p.array.reshape(shape)
            self.places[result] = Place(shape, p.dtype, p.buffer, p.outer, array, p.sizes, p.at)
            if operand in self._pieces:
                self._pieces.add(result)
        if isinstance(x, Shaped):
            contents = None if x.contents is None else x.contents.reshape(tuple(int(d) for d in shape))
            self.frame.values[result] = Shaped(shape, x.dtype, contents)
        else:
            self.frame.values[result] = np.asarray(x).reshape(shape)
        bind_dims(result.tensor, logical, self.frame.symbols)

    def _kernel(self, step: KernelStep) -> None:
        node, source = step.node, step.source
        host = {i: self._contents(v) for i, v in enumerate(node.operands) if i in source.host and v is not None}
        step.check(self.frame)
        shapes = result_shapes(node, self.frame)
        sizes = [nbytes_of_shape(shape, v.tensor.dtype) for v, shape in zip(node.results, shapes)]
        self._claim(step, sum(sizes))
        call = Call([self._shape(v) for v in node.operands], shapes, host)
        operands = [self._operand(step, i) for i, v in enumerate(node.operands) if v is not None]
        if isinstance(source, Mover):
            self._move(step, source, call, operands)
            return
        launch = source.bind(call)
        self._claim(step, sum(sizes) + launch.scratch)
        self._row(step, operands, [self._result(v, shape) for v, shape in zip(node.results, shapes)], launch)

    def _move(self, step: KernelStep, source: Mover, call: Call, operands: list[Place]) -> None:
        """Copies only what must be copied (see `pieces.py`)."""
        boxes, results = list(source.boxes(call)), list[Place]()
        for slot, (v, shape) in enumerate(zip(step.node.results, call.results), len(operands)):
            mine = [b for b in boxes if b.dst == slot]
            place = None if v in self._kept else piece(mine, operands, physical(shape, v.tensor.layout), v.tensor.dtype.np)
            if place is not None:
                boxes = [b for b in boxes if b.dst != slot]
                self._pieces.add(v)
            results.append(self._result(v, shape, place))

        def copied(b: Box) -> bool:
            if isinstance(b.src, bytes) or operands[b.src].buffer in self._own:
                return True
            return not compute_within(operands[b.src], results[b.dst - len(operands)], b)

        boxes = [b for b in boxes if copied(b)]
        if boxes:
            self._row(step, operands, results, source.copy(boxes))

    def _result(self, v: Value, shape: tuple[int, ...], place: Place | None = None) -> Place:
        """The place of a result of the row that comes next, in a buffer of its own if it is not given."""
        t = v.tensor
        at = physical(shape, t.layout)
        self.places[v] = place or Place(at, t.dtype.np, self._buffer(nbytes_of_shape(shape, t.dtype)))
        if v in self._kept:
            self._own.add(self.places[v].buffer)  # type: ignore[arg-type]  # it is no piece
        self.frame.values[v] = Shaped(at, t.dtype.np)
        bind_dims(t, shape, self.frame.symbols)
        return self.places[v]

    def _row(self, step: KernelStep, operands: list[Place], results: list[Place], launch: Launch) -> None:
        """Adds what runs a kernel: a row, or one for each pass."""
        scratch = self._buffer(launch.scratch)
        tables = [Place(t.shape, t.dtype, array=t) for t in (*step.tables, *launch.tables)]
        pointers = [*operands, *results, Place((), BYTE, scratch), *tables]
        self.rows += [Row(step, pointers, scratch, ints, tiles) for ints, tiles in launch.each()]
        for p in pointers:
            if p.buffer is not None:
                p.buffer.root().last = len(self.rows) - 1

    def _claim(self, step: KernelStep, nbytes: int) -> None:
        """Asks for memory in the name of a step. What a run may hold is no decision to record: it is asked again each time."""
        self.frame.budget.check_bytes(step.name, value_of(nbytes))
        self.claims.append(nbytes)

    def _buffer(self, nbytes: int) -> Buffer:
        """Bytes that the row which comes next writes."""
        self.buffers.append(Buffer(nbytes, len(self.rows), len(self.rows)))
        return self.buffers[-1]

    def _contents(self, v: Value) -> np.ndarray:
        x = self.frame.logical(v)
        known = x.contents if isinstance(x, Shaped) else np.asarray(x)
        if known is None:
            raise Cut
        return known

    def _shape(self, v: Value | None) -> tuple[int, ...] | None:
        return None if v is None else v.tensor.shape if v.is_const else self.frame.logical(v).shape  # type: ignore[return-value]

    def _operand(self, step: KernelStep, i: int) -> Place:
        v = step.node.operands[i]
        assert v is not None
        if not v.is_const:
            return self.places[v]
        x = step.constant(i)
        return Place(x.shape, x.dtype, array=x)


def _recorded_contents(tape: Tape, at: int, x: np.ndarray) -> Shaped | np.ndarray:
    """Contents number `at` of a signature: each element a size of its own where they are a few integers, else as they are."""
    if x.dtype == object:
        raise TypeError("strings cannot be compared by their bytes")
    if not takes_contents_as_sizes(x):
        tape.guard(f"contents[{at}] == {x.tobytes()!r}")
        return x
    contents = np.empty(x.size, object)
    contents[:] = [tape.size(f"contents[{at}][{k}]", n) for k, n in enumerate(x.ravel().tolist())]
    return Shaped(x.shape, x.dtype, contents.reshape(x.shape))


def takes_contents_as_sizes(x: np.ndarray) -> bool:
    return x.dtype.kind in "iu" and x.size <= MOST_FREE
