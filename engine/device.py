"""Where the kernels of a plan run, as the engine sees it: memory, addresses, and what walks a bound segment's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..ir.errors import InputError, RunError
from ..kernels.cpu.launch import Schedule, address_of, call
from ..kernels.spec import trimmed
from .memory import ALIGN, BYTE, aligned

if TYPE_CHECKING:
    from ..kernels.spec import Launch
    from .bound import Bound
    from .steps import KernelStep

CLOSED = "the executable is closed; compile or load it again"
Between = Callable[[], None]  # called now and then while a segment runs; it may raise


class DeviceArray(Protocol):
    """A tensor in memory that numpy cannot read: what the engine asks of it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def ndim(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def reshape(self, shape: tuple[int, ...]) -> Any: ...

    def numpy(self) -> np.ndarray:
        """A copy in memory of the host."""


class Resolved(Protocol):
    """A bound segment with the addresses of one arena in it."""

    def run(self, addresses: Sequence[int], threads: int, between: Between) -> None:
        """Runs the segment, given where its inputs and outputs lie."""

    def faults(self) -> list[int]:
        """Where in the arena (in bytes) kernels of the last run said that their operands were wrong."""

    def timed(self, run: Callable[[], None]) -> list[tuple[int, float]]:
        """Calls `run`, in which the segment runs once; the tiles of each row of its table, and the seconds that it took."""


class Device(Protocol):
    """Memory that kernels can read, and how they are run there."""

    is_host: bool  # whether its memory is numpy's
    closed: bool  # whether its memory was given back

    def empty(self, nbytes: int) -> Any:
        """Uninitialised bytes, from a 64-byte boundary on."""

    def empty_each(self, sizes: Sequence[int]) -> list[Any]:
        """`empty` for several values that are made together."""

    def address(self, x: Any) -> int:
        """Where kernels find a value of this device."""

    def constant(self, a: np.ndarray) -> int:
        """Where kernels find what an array of the host holds, which never changes and which the caller keeps."""

    def bring(self, values: Sequence[Any]) -> list[Any]:
        """The values in this device's memory."""

    def adopt(self, x: Any, what: str, ordered: bool, to_read: bool = True) -> DeviceArray | None:
        """An array of another library in this device's memory, which it keeps; None for what lies elsewhere. Unless that is
        `ordered` already, what runs from now on comes after what makes it. Where it is `to_read` and kernels could not read it in
        its place it is copied, else it is to be written to. Raises InputError, in which `what` names it."""

    def write(self, to: Any, x: Any) -> None:
        """Copies a value, wherever it lies, to an array of its type and shape in this device's memory."""

    def settle(self, values: Iterable[Any]) -> None:
        """Waits until nothing that runs reads those of the values that are other libraries' arrays."""

    def beside(self, stream: Any) -> AbstractContextManager[None]:
        """What runs within comes after what is under way on a stream of the caller's, and what that is asked for behind it comes
        after what ran. Raises InputError."""

    def owned(self, results: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        """The results in this device's memory; those are copies that would share memory with what was `given` or each other."""

    def trim(self, x: Any, axis: int | None, length: int) -> Any:
        """A result as long as its kernel found it to be along the axis (None: as it is)."""

    def resolve(self, bound: Bound, arena: Any) -> Resolved:
        """A bound segment for an arena."""

    def close(self) -> None:
        """Gives back all memory but that of arrays which were handed out."""

    def execute(self, step: KernelStep, operands: list[Any], results: list[Any], launch: Launch, threads: int) -> int:
        """Runs one kernel by itself; the length that it reports (see `KernelSource.trim`). Raises RunError with the kernel's
        message where it found its operands' contents wrong."""


def fetch(x: Any) -> Any:
    """A value as the host reads it: what lies in a device's memory is copied."""
    return x.numpy() if hasattr(x, "numpy") else x


def plain(x: Any) -> Any:
    """A value in the order of its own axes: what is looked at in another one in a device's memory is copied to the host."""
    return x if getattr(x, "perm", None) is None else fetch(x)


class Cpu:
    """The processor that Python runs on: its memory is numpy's."""

    is_host, closed = True, False

    def empty(self, nbytes: int) -> np.ndarray:
        return aligned((nbytes,), BYTE)

    def address(self, x: np.ndarray) -> int:
        return address_of(x)

    def constant(self, a: np.ndarray) -> int:
        return a.ctypes.data

    def empty_each(self, sizes: Sequence[int]) -> list[np.ndarray]:
        return [self.empty(n) for n in sizes]

    def bring(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def adopt(self, x: Any, what: str, ordered: bool, to_read: bool = True) -> None:
        return None

    def write(self, to: np.ndarray, x: np.ndarray) -> None:
        np.copyto(to, x)

    def settle(self, values: Iterable[Any]) -> None:
        pass

    def beside(self, stream: Any) -> AbstractContextManager[None]:
        raise InputError("the target has no streams: compile with target='cuda'")

    def owned(self, results: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        raise InputError("the target has no device whose memory outputs could stay in")

    def trim(self, x: np.ndarray, axis: int | None, length: int) -> np.ndarray:
        return trimmed(x, axis, length)

    def resolve(self, bound: Bound, arena: np.ndarray) -> CpuResolved:
        return CpuResolved(bound, arena)

    def close(self) -> None:
        pass

    def execute(self, step: KernelStep, operands: list[Any], results: list[Any], launch: Launch, threads: int) -> int:
        scratch = self.empty(max(launch.scratch, ALIGN))
        if step.source.checked:
            scratch[:8] = 0
        addresses = [a.ctypes.data for a in (*operands, *results, scratch, *step.tables, *launch.tables)]
        for ints, tiles in launch.each():
            call(step.address, np.array([*addresses, *ints], np.int64), tiles, threads)
        if step.source.checked and scratch[:8].any():
            raise RunError(f"{step.name}: {step.source.checked}")
        return int(scratch[8:16].view(np.int64)[0]) if step.source.trim else 0


CPU = Cpu()


class CpuResolved:
    """A bound segment with the addresses of one arena in it, and the schedule that walks its table."""

    def __init__(self, bound: Bound, arena: np.ndarray):
        p, base = bound.parameters, address_of(arena)
        self._checked = [at for at, _ in bound.checked]
        self._flags = arena[: bound.arena // 8 * 8].view(np.int64)  # the arena as words, of which some are looked at after a run
        self.words, table = aligned(p.words.shape, p.words.dtype), p.table.copy()
        np.multiply(p.relative, base, out=self.words)
        self.words += p.words
        table[:, 1] = address_of(self.words) + 8 * table[:, 1]
        table[:, 3] = np.where(table[:, 3] < 0, 0, table[:, 3] + base)
        self._view = memoryview(self.words)  # type: ignore[arg-type]  # much faster to write than the array
        self._patches = [(word, which, int(p.words[word])) for word, which in p.patched]
        patches = np.array(self._patches, np.int64).reshape(-1, 3)
        patches[:, 0] = self.words.ctypes.data + 8 * patches[:, 0]
        self.schedule = Schedule(table, patches)

    def run(self, addresses: Sequence[int], threads: int, between: Between) -> None:
        view = self._view
        for word, i, at in self._patches:
            view[word] = addresses[i] + at
        self.schedule.run(threads, between)

    def timed(self, run: Callable[[], None]) -> list[tuple[int, float]]:
        times = self.schedule.time_rows()
        run()
        return list(zip(self.schedule.table[:, 2].tolist(), (np.diff(times) / 1e9).tolist(), strict=True))

    def faults(self) -> list[int]:
        return [at for at in self._checked if self._flags[at // 8]] if self.schedule.fault else []
