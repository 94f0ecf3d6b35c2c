"""A segment with all its sizes known: what the native call reads, and how it is run in a frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.core import Value
from ..ir.errors import RunError
from ..ir.recording import Table
from .device import Between, Device, Resolved
from .memory import BYTE, Buffer
from .steps import Frame, KernelStep
from .workspace import Workspace


@dataclass(slots=True)
class Place:
    """Where a value lies while its segment runs: in a buffer or a value from outside, from byte `at` on, or in a known array. While
    sizes are recorded, integers that follow from them are an array of objects, flat (see `steps.Shaped`)."""

    shape: tuple[int, ...]  # physical
    dtype: np.dtype
    buffer: Buffer | None = None
    outer: Value | None = None
    array: np.ndarray | None = None
    sizes: np.ndarray | None = None
    at: int = 0
    table: Table | None = None  # an array that is made of recorded sizes

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(slots=True)
class Parameters:
    """What the native call reads, but for the addresses that only a run knows."""

    words: np.ndarray  # parameters of all rows; addresses in the arena are relative to its start
    relative: np.ndarray  # 1 for each of the words that is such an address, 0 for the others
    patched: list[tuple[int, int]]  # which of the words are bytes from the start of inputs and outputs, and of which
    table: np.ndarray  # kernel, first of its words, tiles, place of the word to clear in the arena (or -1)
    keep: list[np.ndarray]  # what the other addresses point into


@dataclass(eq=False, slots=True)
class Bound:
    """A segment with all its sizes known, ready to be resolved for an arena (see `Workspace`)."""

    stop: int  # the step after the last of the segment
    name: str  # of its first node, for messages
    symbols: dict[str, int]  # what is known after it
    inputs: list[Value]  # values from outside whose addresses the kernels take
    outputs: list[Buffer]  # buffers that outlive it, and so get memory of their own
    results: list[tuple[Value, Place]]  # values that live after it
    dead: list[Value]  # values from outside that nobody reads after it
    arena: int  # bytes
    parameters: Parameters
    checked: list[tuple[int, KernelStep]]  # where in the arena a kernel says that its operands were wrong
    kernels: list[KernelStep]  # of the rows of the table

    def run(self, frame: Frame) -> None:
        """Runs the segment in a frame. Raises RunError where a kernel found its operands' contents wrong."""
        device = frame.workspace.device
        memory = self._memory(device, frame.places)
        nbytes = self.arena + sum(b.nbytes for b in self.outputs)
        if not frame.budget.fits(nbytes):
            frame.budget.check_bytes(f"{self.name} and what follows", nbytes)
        if not device.is_host:
            frame.values.update(zip(self.inputs, device.bring([frame.values[v] for v in self.inputs])))
        addresses = [device.address(frame.values[v]) for v in self.inputs] + [device.address(m) for m in memory]
        self.launch(addresses, frame.workspace, frame.threads, lambda: frame.budget.check_time(self.name))
        self._hand_over(frame, memory)

    def _memory(self, device: Device, places: Mapping[Value, np.ndarray]) -> list[Any]:
        """Bytes for what outlives the segment: the caller's, where there are any of the right shape."""
        given = {p.buffer.root(): places[v] for v, p in self.results if p.buffer and v in places and p.shape == places[v].shape}
        made = iter(device.empty_each([b.nbytes for b in self.outputs if b not in given]))
        return [given[b].reshape(-1).view(BYTE) if b in given else next(made) for b in self.outputs]

    def launch(self, addresses: Sequence[int], workspace: Workspace, threads: int, between: Between) -> None:
        """Runs the kernels, given where the inputs and outputs lie."""
        if not len(self.parameters.table):
            return
        resolved = workspace.resolve(self)
        resolved.run(addresses, threads, between)
        self.check(resolved)

    def check(self, resolved: Resolved) -> None:
        """Raises RunError where a kernel found its operands' contents wrong."""
        self.complain(resolved.faults() if self.checked else ())

    def complain(self, places: Iterable[int]) -> None:
        """Raises RunError for the first of these places in the arena, at which kernels said that their operands were wrong."""
        for at in places:
            step = next(step for place, step in self.checked if place == at)
            raise RunError(f"{step.name}: {step.source.checked}")

    def _hand_over(self, frame: Frame, memory: list[Any]) -> None:
        roots = dict(zip(self.outputs, memory))
        for v, p in self.results:
            if p.buffer is not None:
                frame.values[v] = roots[p.buffer.root()][: p.nbytes].view(p.dtype).reshape(p.shape)
            else:
                frame.values[v] = p.array if p.outer is None else frame.values[p.outer].reshape(p.shape)
            frame.hold(v)
        for v in self.dead:
            frame.hold(v, -1)
            del frame.values[v]
        frame.symbols.update(self.symbols)
