"""CUDA as a device of the engine: tensors in its memory, and bound segments as lists of launches."""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import InputError, RunError
from ..ir.locks import fork_safe_lock
from ..kernels.cuda.driver import Command, Driver, Memory
from ..kernels.cuda.source import words_of
from .device import Between
from .memory import ALIGN, BYTE

if TYPE_CHECKING:
    from ..kernels.spec import Launch
    from .bound import Bound
    from .steps import KernelStep


LEGACY_STREAM = 1  # the default stream, as the array interface numbers it
APART = 256  # bytes: where values of one block of memory begin
MOST_GRAPHS = 8  # of one segment on one arena, for as many places of its inputs and outputs


@dataclass(frozen=True, eq=False)
class CudaArray:
    """A tensor in a device's memory: contiguous, but that `perm` may say in which order the axes are looked at."""

    driver: Driver
    memory: Memory  # kept alive
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    perm: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def reshape(self, shape: Sequence[int]) -> CudaArray:
        assert self.perm is None, "an array that is looked at in another order is not reshaped"
        return replace(self, shape=tuple(shape))

    def view(self, dtype: np.dtype) -> CudaArray:
        """Bytes as elements of another type; one-dimensional."""
        return replace(self, shape=(self.nbytes // dtype.itemsize,), dtype=dtype)

    def __getitem__(self, first: slice) -> CudaArray:
        """The first elements along axis 0."""
        return replace(self, shape=(min(first.stop, self.shape[0]), *self.shape[1:]))

    def transpose(self, perm: Sequence[int]) -> CudaArray:
        assert self.perm is None, "an array is looked at in another order once"
        return replace(self, shape=tuple(self.shape[a] for a in perm), perm=tuple(perm))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the interface; without a stream, since all that was asked for is done."""
        assert self.perm is None, "an array that is looked at in another order is not handed out"
        self.driver.synchronize()
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3}

    def numpy(self) -> np.ndarray:
        """A copy in memory of the host."""
        perm = range(self.ndim) if self.perm is None else self.perm
        shape = [0] * self.ndim
        for a, n in zip(perm, self.shape, strict=True):
            shape[a] = n
        out = np.empty(shape, self.dtype)
        if out.nbytes:
            self.driver.read(out, self.address)
        return out.transpose(tuple(perm))


@dataclass(frozen=True)
class _Kept:
    """Memory of another library's array."""

    owner: Any
    address: int
    nbytes: int = 0


def _strides(shape: Sequence[int], dtype: np.dtype) -> list[int]:
    """The bytes between neighbours along the axes of a C-contiguous array."""
    return [math.prod(shape[a + 1 :]) * dtype.itemsize for a in range(len(shape))]


class Cuda:
    """A CUDA device as the engine sees it (`device.Device`)."""

    is_host = False

    def __init__(self, driver: Driver):
        self.driver, self.closed = driver, False
        self._constants: dict[int, CudaArray] = {}  # by the identity of the host's arrays
        self._lock = fork_safe_lock()  # an array that two threads bring at once would lie where only one of them knows

    def empty(self, nbytes: int) -> CudaArray:
        memory = self.driver.alloc(nbytes)
        return CudaArray(self.driver, memory, memory.address, (nbytes,), BYTE)

    def address(self, x: CudaArray) -> int:
        return x.address

    def constant(self, a: np.ndarray) -> int:
        with self._lock:
            if id(a) not in self._constants:
                (self._constants[id(a)],) = self.bring([a])
                weakref.finalize(a, self._constants.pop, id(a), None)
            return self._constants[id(a)].address

    def empty_each(self, sizes: Sequence[int]) -> list[CudaArray]:
        """One block for all: where it lies decides where all lie, so that what is captured in a graph serves again."""
        starts = list(accumulate((-(-n // APART) * APART for n in sizes), initial=0))
        whole = self.empty(starts.pop())
        return [replace(whole, address=whole.address + at, shape=(n,)) for at, n in zip(starts, sizes, strict=True)]

    def bring(self, values: Sequence[Any]) -> list[CudaArray]:
        ours = [x for x in values if isinstance(x, CudaArray)]
        theirs = [np.ascontiguousarray(x).reshape(np.shape(x)) for x in values if not isinstance(x, CudaArray)]
        made = self.empty_each([x.nbytes for x in theirs]) if theirs else []
        for place, x in zip(made, theirs, strict=True):
            if x.nbytes:
                self.driver.write(place.address, x)
        new = iter([place.view(x.dtype).reshape(x.shape) for place, x in zip(made, theirs, strict=True)])
        old = iter(ours)
        return [next(old) if isinstance(x, CudaArray) else next(new) for x in values]

    def adopt(self, x: Any, what: str) -> CudaArray:
        if isinstance(x, CudaArray) and x.perm is None:
            return x
        about = x.__cuda_array_interface__
        shape, dtype, strides = tuple(about["shape"]), np.dtype(about["typestr"]), about.get("strides")
        plain = strides is None or 0 in shape or all(n == 1 or s == t for n, s, t in zip(shape, strides, _strides(shape, dtype)))
        if not plain or about.get("mask") is not None:
            raise InputError(f"{what}: an array on the device with strides {strides}, expected a C-contiguous one; copy it")
        # Before version 3 nobody said on which stream an array is made: mostly it is the default one.
        stream = about.get("stream", LEGACY_STREAM if about["version"] < 3 else None)
        if stream is not None:
            self.driver.wait(stream)
        return CudaArray(self.driver, _Kept(x, about["data"][0]), about["data"][0], shape, dtype)

    def owned(self, results: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        out: list[Any] = []
        taken = [x for x in given if isinstance(x, CudaArray)]
        for x in self.bring(results):
            if x.perm is not None or any(x.address < y.address + y.nbytes and y.address < x.address + x.nbytes for y in taken):
                x = self.bring([x.numpy()])[0]
            taken.append(x)
            out.append(x)
        return out

    def trim(self, x: CudaArray, axis: int | None, length: int) -> CudaArray:
        if axis is None or x.shape[axis] == length:
            return x
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        inner = math.prod(shape[axis + 1 :]) * x.dtype.itemsize
        out = self.empty(math.prod(shape) * x.dtype.itemsize).view(x.dtype).reshape(shape)
        for i in range(math.prod(shape[:axis]) if out.nbytes else 0):
            self.driver.copy(out.address + i * length * inner, x.address + i * x.shape[axis] * inner, length * inner)
        return out

    def resolve(self, bound: Bound, arena: CudaArray) -> CudaResolved:
        return CudaResolved(self.driver, bound, arena)

    def close(self) -> None:
        self.closed = True
        self._constants.clear()
        self.driver.close()

    def execute(self, step: KernelStep, operands: list[Any], results: list[Any], launch: Launch, threads: int) -> int:
        scratch = self.empty(max(launch.scratch, ALIGN))
        if step.source.checked:
            self.driver.clear(scratch.address, 8)
        arrays = (*operands, *results, scratch, *step.tables, *launch.tables)
        given = [x.address if isinstance(x, CudaArray) else self.constant(x) for x in arrays]
        for ints, blocks in launch.each():
            self.driver.run([Command(step.address, np.array([*given, *ints], np.int64), blocks, len(given))])
        if not step.source.checked and not step.source.trim:
            return 0
        head = scratch[:16].numpy().view(np.int64)
        if step.source.checked and head[0]:
            raise RunError(f"{step.name}: {step.source.checked}")
        return int(head[1])


class CudaResolved:
    """A bound segment as launches on one arena."""

    def __init__(self, driver: Driver, bound: Bound, arena: CudaArray):
        p, self._driver = bound.parameters, driver
        self._checked, self._base = [at for at, _ in bound.checked], arena.address
        self._words = p.words + p.relative * arena.address
        self._patches = [(word, which, int(p.words[word])) for word, which in p.patched]
        self._commands, self._captured = [], OrderedDict[tuple[int, ...], Any]()
        for step, (kernel, first, blocks, flag) in zip(bound.kernels, p.table.tolist(), strict=True):
            words = self._words[first : first + words_of(step.source.text)]
            self._commands.append(Command(kernel, words, blocks, _pointers(step), flag + arena.address if flag >= 0 else 0))

    def run(self, addresses: Sequence[int], threads: int, between: Between) -> None:
        between()
        key = tuple(addresses)
        if key in self._captured:
            self._captured.move_to_end(key)
            return self._again(key)
        self._patch(addresses)
        self._driver.run(self._commands)
        self._captured[key] = None
        if len(self._captured) > MOST_GRAPHS:
            self._captured.popitem(last=False)

    def _again(self, key: tuple[int, ...]) -> None:
        """Runs as the last time for these addresses: what comes a second time is captured."""
        if self._captured[key] is None:
            self._captured[key] = self.capture(key)
        self._captured[key]()

    def capture(self, addresses: Sequence[int]) -> Callable[[], None]:
        """A run for these addresses as one call."""
        self._patch(addresses)
        return self._driver.capture(self._commands)

    def _patch(self, addresses: Sequence[int]) -> None:
        for word, i, at in self._patches:
            self._words[word] = addresses[i] + at

    def faults(self) -> list[int]:
        flags = np.zeros(1, np.int64)
        found = []
        for at in self._checked:
            self._driver.read(flags, self._base + at)
            if flags[0]:
                found.append(at)
        return found


def _pointers(step: KernelStep) -> int:
    """How many of a kernel's words are addresses."""
    return sum(v is not None for v in step.node.operands) + len(step.node.results) + 1 + len(step.tables)


def open_device(name: str) -> Cuda:
    """The device "gpu", "shim" or "null". Raises CudaUnavailable where there is none."""
    from ..kernels.cuda.driver import Null, Shim

    if name == "gpu":
        from ..kernels.cuda.gpu import Gpu

        return Cuda(Gpu())
    return Cuda(Shim() if name == "shim" else Null())
