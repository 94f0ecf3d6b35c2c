"""From the rows of a walked segment to its parameters: memory, addresses, words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.core import Value
from ..ir.recording import Table
from ..kernels.cpu.launch import ROW
from .binder import Binder, Row
from .bound import Bound, Parameters, Place
from .device import Device
from .memory import FOREVER, Buffer, assign
from .steps import KernelStep


@dataclass
class Draft:
    """A bound segment before its numbers stand in arrays: where sizes were recorded, `symbols`, the bytes of `outputs`, the shapes
    of `results`, `arena`, `checked`, `words` and `table` hold expressions. Meanings as in `Bound` and `Parameters`."""

    stop: int
    name: str
    symbols: dict[str, int]
    inputs: list[Value]
    outputs: list[Buffer]
    results: list[tuple[Value, Place]]
    dead: list[Value]
    arena: int
    checked: list[tuple[int, KernelStep]]
    kernels: list[KernelStep]
    words: list[Any]
    relative: np.ndarray
    patched: list[tuple[int, int]]
    table: list[tuple[Any, ...]]
    keep: list[np.ndarray]
    device: Device
    computed: list[tuple[int, np.ndarray]]  # words that are addresses of recorded sizes, and of which
    tables: list[tuple[int, Table]]  # words that are addresses of tables which are made of sizes

    def bound(self) -> Bound:
        """The bound segment, where no sizes were recorded."""
        table = _ints(self.table).reshape(-1, ROW)
        parameters = Parameters(_ints(self.words), self.relative, self.patched, table, self.keep)
        return Bound(self.stop, self.name, self.symbols, self.inputs, self.outputs, self.results, self.dead, self.arena,
                     parameters, self.checked, self.kernels)  # fmt: skip


def _ints(x: list[Any]) -> np.ndarray:
    return np.array(x, np.int64)


def draft_of(b: Binder, place: Callable[[Iterable[Buffer]], int] = assign) -> Draft:
    """The draft of a segment that has been walked; `place` gives the buffers their offsets in the arena, and tells its bytes."""
    freed = {v for s in b.steps for v in s.frees}
    results = [(v, b.places[v]) for s in b.steps for v in s.node.results if v not in freed]
    for _, p in results:
        if p.buffer is not None:
            p.buffer.root().last = FOREVER
    for row in b.rows:
        if row.step.source.checked:  # looked up when all rows have run
            row.scratch.last = len(b.rows)
    _overwrite(b)
    roots = [buffer for buffer in b.buffers if buffer.within is None]
    outputs = [buffer for buffer in roots if buffer.last == FOREVER]
    arena = place(buffer for buffer in roots if buffer.last < FOREVER)
    checked = [(row.scratch.offset, row.step) for row in b.rows if row.step.source.checked]
    dead = [v for v in freed if v in b.outside]
    inputs = list(dict.fromkeys(p.outer for row in b.rows for p in row.pointers if p.outer is not None))
    keep = [p.array for row in b.rows for p in row.pointers if p.array is not None]
    draft = Draft(b.start + len(b.steps), b.steps[0].name, b.frame.symbols, inputs, outputs, results, dead, arena, checked,
                  [row.step for row in b.rows], [], np.empty(0), [], [], keep, b.device, [], [])  # fmt: skip
    number: dict[Any, int] = {x: i for i, x in enumerate([*inputs, *outputs])}
    relative: list[int] = []
    for row in b.rows:
        _add_row(draft, row, number, relative)
    draft.relative = np.zeros(len(draft.words), np.int64)
    draft.relative[relative] = 1
    return draft


def _overwrite(b: Binder) -> None:
    """Lets a result take over the memory of an operand that its kernel may overwrite and that dies with it."""
    for k, row in enumerate(b.rows):
        node, result = row.step.node, b.places[row.step.node.results[0]].buffer
        present = [i for i, v in enumerate(node.operands) if v is not None]
        for i in row.step.source.in_place:
            place = row.pointers[present.index(i)]
            operand = None if place.buffer is None else place.buffer.root()
            if operand is None or result is None or result.within is not None or operand.last != k:
                continue
            same = [p for p in row.pointers if p.buffer is not None and p.buffer.root() is operand]
            if len(same) == 1 and place.nbytes == operand.nbytes == result.nbytes:
                result.within, operand.last = operand, result.last
                break


def _add_row(draft: Draft, row: Row, number: dict[Any, int], relative: list[int]) -> None:
    """Appends a row's parameters, at a multiple of 64 bytes. `number` counts what only a run knows the addresses of."""
    words = draft.words
    words += [0] * (-len(words) % 8)
    flag = row.scratch.offset if row.step.source.checked else -1
    draft.table.append((row.step.address, len(words), row.tiles, flag))
    for p in row.pointers:
        key = p.outer if p.buffer is None else p.buffer.root()
        start = p.at if p.buffer is None else p.at + p.buffer.start()
        if p.array is not None:
            words.append(draft.device.constant(p.array))
        elif p.sizes is not None:
            draft.computed.append((len(words), p.sizes))
            words.append(0)
        elif p.table is not None:
            draft.tables.append((len(words), p.table))
            words.append(0)
        elif key in number:
            draft.patched.append((len(words), number[key]))
            words.append(start)
        else:
            relative.append(len(words))
            words.append(key.offset + start)  # type: ignore[union-attr]  # a buffer in the arena
    words += row.ints
