"""CUDA as a device of the engine: tensors in its memory, and bound segments as lists of launches."""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import InputError, RunError
from ..ir.locks import fork_safe_lock
from ..kernels.cuda.driver import Command, Driver, Foreign, Memory, Transfer
from ..kernels.cuda.source import words_of
from .cuda_foreign import LEGACY_STREAM, on_device, stream_number
from .device import Between, fetch
from .foreign import Pointed, capsule_of
from .memory import ALIGN, BYTE

if TYPE_CHECKING:
    from ..kernels.spec import Launch
    from .bound import Bound
    from .steps import KernelStep


WIDEST = 16  # bytes that kernels read at once, if sizes allow it
APART = 256  # bytes: where values of one block of memory begin
MOST_GRAPHS = 8  # of one segment on one arena, for as many places of its inputs and outputs


class CudaArray:
    """A tensor in a device's memory, never changed in place: contiguous, but that `perm` may say in which order the axes are looked
    at. `memory` is what keeps it alive."""

    __slots__ = ("__weakref__", "address", "driver", "dtype", "memory", "perm", "shape")

    def __init__(self, driver: Driver, memory: Memory, address: int, shape: tuple[int, ...], dtype: np.dtype,
                 perm: tuple[int, ...] | None = None):  # fmt: skip
        self.driver, self.memory, self.address, self.shape, self.dtype, self.perm = driver, memory, address, shape, dtype, perm

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
        return CudaArray(self.driver, self.memory, self.address, tuple(shape), self.dtype)

    def view(self, dtype: np.dtype) -> CudaArray:
        """Bytes as elements of another type; one-dimensional."""
        return CudaArray(self.driver, self.memory, self.address, (self.nbytes // dtype.itemsize,), dtype)

    def __getitem__(self, first: slice) -> CudaArray:
        """The first elements along axis 0."""
        return CudaArray(self.driver, self.memory, self.address, (min(first.stop, self.shape[0]), *self.shape[1:]), self.dtype)

    def transpose(self, perm: Sequence[int]) -> CudaArray:
        assert self.perm is None, "an array is looked at in another order once"
        return CudaArray(self.driver, self.memory, self.address, tuple([self.shape[a] for a in perm]), self.dtype, tuple(perm))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.driver.dlpack

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None,
                   dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> Any:  # fmt: skip
        """The same memory under DLPack's protocol: what `stream` (None: the default one, -1: none) is asked for from now on comes
        after what makes the array. Raises BufferError for another device than this one."""
        assert self.perm is None, "an array that is looked at in another order is not handed out"
        if dl_device not in (None, self.driver.dlpack) or copy:
            raise BufferError(f"the array lies on DLPack's device {self.driver.dlpack}, and is not copied; see CudaArray.numpy")
        if stream != -1:
            self.driver.hold(stream or LEGACY_STREAM)
        asked = {} if max_version is None else {"max_version": max_version}
        return capsule_of(Pointed(self, self.address, self.shape, None, self.dtype), self.driver.dlpack, **asked)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the interface; without a stream, since all that was asked for is done."""
        assert self.perm is None, "an array that is looked at in another order is not handed out"
        self.driver.hold(LEGACY_STREAM)  # where it is read, mostly
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


def spread(sizes: Sequence[int]) -> list[int]:
    """Where values of such sizes begin in one block of memory, and at last where it ends."""
    return list(accumulate((-(-n // APART) * APART for n in sizes), initial=0))


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
        *starts, nbytes = spread(sizes)
        whole = self.empty(nbytes)
        return [CudaArray(self.driver, whole.memory, whole.address + at, (n,), BYTE) for at, n in zip(starts, sizes, strict=True)]

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

    def adopt(self, x: Any, what: str, ordered: bool, to_read: bool = True) -> CudaArray | None:
        if isinstance(x, CudaArray):
            if x.driver is self.driver:
                return x if x.perm is None else None
            if not ordered:
                self.driver.wait(x.driver.stream)
            found: Pointed | None = Pointed(x, x.address, x.shape, None, x.dtype)
        else:
            found = on_device(x, self.driver, what, ordered)
        if found is None:
            return None
        if not found.contiguous:
            raise InputError(f"{what}: an array on the device with strides {found.strides}, expected a C-contiguous one; copy it")
        if not to_read and not found.writeable:
            raise InputError(f"{what} is read-only, expected one that can be written to")
        memory = Foreign(found.owner, found.address, math.prod(found.shape) * found.dtype.itemsize)
        self.driver.adopt(memory)
        array = CudaArray(self.driver, memory, found.address, found.shape, found.dtype)
        return self._aligned(array, ordered) if to_read else array

    def _aligned(self, x: CudaArray, ordered: bool) -> CudaArray:
        """An array where kernels can read 16 bytes at once: a part of another may begin in between."""
        if x.address % WIDEST == 0 or not x.nbytes:
            return x
        out = self.empty(x.nbytes).view(x.dtype).reshape(x.shape)
        self.write(out, x)
        if not ordered:
            self.driver.synchronize()
        return out

    def write(self, to: CudaArray, x: CudaArray | np.ndarray) -> None:
        if isinstance(x, CudaArray) and x.perm is None and x.nbytes:
            self.driver.copy(to.address, x.address, x.nbytes)
        elif x.nbytes:
            self.driver.write(to.address, np.ascontiguousarray(fetch(x)))

    def settle(self, values: Iterable[Any]) -> None:
        if any(isinstance(x, CudaArray) and isinstance(x.memory, Foreign) for x in values):
            self.driver.synchronize()

    @contextmanager
    def beside(self, stream: Any) -> Iterator[None]:
        number = stream_number(stream)
        self.driver.wait(number)
        try:
            yield
        finally:
            self.driver.hold(number)

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
        self._checked = [at for at, _ in bound.checked]
        self._flags = driver.pinned(8 * len(self._checked)).view(np.int64)
        self.reports = [Transfer(False, arena.address + at, self._flags[i : i + 1]) for i, at in enumerate(self._checked)]
        self._took: list[float] | None = None  # by the kernels, while they are timed
        self._words = p.words + p.relative * arena.address
        self._patched, self._which = np.array(p.patched, np.intp).reshape(-1, 2).T
        self._starts = p.words[self._patched]
        self._commands, self._captured = list[Command](), OrderedDict[tuple[int, ...], Any]()
        for step, (kernel, first, blocks, flag) in zip(bound.kernels, p.table.tolist(), strict=True):
            words = self._words[first : first + words_of(step.source.text)]
            self._commands.append(Command(kernel, words, blocks, step.pointers, flag + arena.address if flag >= 0 else 0))

    def run(self, addresses: Sequence[int], threads: int, between: Between) -> None:
        between()
        if self._took is not None:
            self._patch(addresses)
            self._took += self._driver.seconds(self._commands)
            self._driver.run(self._commands)  # where a kernel overwrites an operand, running it again has given something else
        elif not self.again(addresses):
            self._patch(addresses)
            self._driver.run(self._commands)

    def again(self, addresses: Sequence[int]) -> bool:
        """Runs by a graph if the addresses came before: what comes a second time is captured. Else they are noted."""
        key = tuple(addresses)
        if key not in self._captured:
            self._captured[key] = None
            if len(self._captured) > MOST_GRAPHS:
                self._captured.popitem(last=False)
            return False
        self._captured.move_to_end(key)
        if self._captured[key] is None:
            self._captured[key] = self.capture(key)
        self._captured[key]()
        return True

    def capture(self, addresses: Sequence[int], before: Sequence[Transfer] = (),
                after: Sequence[Transfer] = ()) -> Callable[[], None]:  # fmt: skip
        """A run for these addresses as one call, with copies before and after it."""
        self._patch(addresses)
        return self._driver.capture([*before, *self._commands, *after])

    def _patch(self, addresses: Sequence[int]) -> None:
        self._words[self._patched] = self._starts + np.array(addresses, np.int64)[self._which]

    def timed(self, run: Callable[[], None]) -> list[tuple[int, float]]:
        self._took = []
        try:
            run()
            return list(zip([c.blocks for c in self._commands], self._took, strict=True))
        finally:
            self._took = None

    def faults(self) -> list[int]:
        self._driver.run(self.reports)
        self._driver.synchronize()
        return self.seen()

    def seen(self) -> list[int]:
        """`faults` of the last run whose `reports` were fetched."""
        return [at for at, flag in zip(self._checked, self._flags.tolist(), strict=True) if flag]


def open_device(name: str) -> Cuda:
    """The device "gpu", "shim" or "null". Raises CudaUnavailable where there is none."""
    from ..kernels.cuda.driver import Null, Shim

    if name == "gpu":
        from ..kernels.cuda.gpu import Gpu

        return Cuda(Gpu())
    return Cuda(Shim() if name == "shim" else Null())
