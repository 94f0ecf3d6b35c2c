"""CUDA as a device of the engine: tensors in its memory, and bound segments as lists of launches."""

from __future__ import annotations

import math
import operator
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import InputError, RunError
from ..ir.locks import fork_safe_lock
from ..kernels.cuda.driver import Command, Driver, Foreign, Memory, Transfer
from ..kernels.cuda.source import words_of
from .device import Between
from .foreign import Pointed, capsule_of, pointed
from .memory import ALIGN, BYTE

if TYPE_CHECKING:
    from ..kernels.spec import Launch
    from .bound import Bound
    from .steps import KernelStep


LEGACY_STREAM = 1  # the default stream, as the array interface and DLPack number it
ON_CUDA = (2, 13)  # DLPack's kinds of devices: CUDA, and memory that it manages
WIDEST = 16  # bytes that kernels read at once, if sizes allow it
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

    def adopt(self, x: Any, what: str, ordered: bool) -> CudaArray | None:
        if isinstance(x, CudaArray):
            if x.driver is self.driver:
                return x if x.perm is None else None
            if not ordered:
                self.driver.wait(x.driver.stream)
            return self._kept(Pointed(x, x.address, x.shape, None, x.dtype), what)
        kind, number = x.__dlpack_device__() if hasattr(x, "__dlpack_device__") else (None, 0)
        if kind in ON_CUDA:
            if kind == ON_CUDA[0] and number != self.driver.dlpack[1]:
                raise InputError(f"{what} lies on CUDA device {number}, expected {self.driver.dlpack[1]}; copy it there")
            found = pointed(x, -1 if ordered else self.driver.stream or -1, what)
        elif hasattr(x, "__cuda_array_interface__"):
            about = x.__cuda_array_interface__
            shape, dtype, strides = tuple(about["shape"]), np.dtype(about["typestr"]), about.get("strides")
            if about.get("mask") is not None:
                raise InputError(f"{what}: a masked array on the device, expected a plain one")
            # Before version 3 nobody said on which stream an array is made: mostly it is the default one.
            stream = about.get("stream", LEGACY_STREAM if about["version"] < 3 else None)
            if stream is not None and not ordered:
                self.driver.wait(stream)
            found = Pointed(x, about["data"][0], shape, strides, dtype)
        else:
            return None
        return self._aligned(self._kept(found, what), ordered)

    def _kept(self, x: Pointed, what: str) -> CudaArray:
        """Another library's memory as an array."""
        steps = _strides(x.shape, x.dtype)
        if x.strides and 0 not in x.shape and any(n != 1 and s != t for n, s, t in zip(x.shape, x.strides, steps, strict=True)):
            raise InputError(f"{what}: an array on the device with strides {x.strides}, expected a C-contiguous one; copy it")
        memory = Foreign(x.owner, x.address, math.prod(x.shape) * x.dtype.itemsize)
        self.driver.adopt(memory)
        return CudaArray(self.driver, memory, x.address, x.shape, x.dtype)

    def _aligned(self, x: CudaArray, ordered: bool) -> CudaArray:
        """An array where kernels can read 16 bytes at once: a part of another may begin in between."""
        if x.address % WIDEST == 0 or not x.nbytes:
            return x
        out = self.empty(x.nbytes)
        self.driver.copy(out.address, x.address, x.nbytes)
        if not ordered:
            self.driver.synchronize()
        return out.view(x.dtype).reshape(x.shape)

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
        self._patches = [(word, which, int(p.words[word])) for word, which in p.patched]
        self._commands, self._captured = list[Command](), OrderedDict[tuple[int, ...], Any]()
        for step, (kernel, first, blocks, flag) in zip(bound.kernels, p.table.tolist(), strict=True):
            words = self._words[first : first + words_of(step.source.text)]
            self._commands.append(Command(kernel, words, blocks, _pointers(step), flag + arena.address if flag >= 0 else 0))

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
        for word, i, at in self._patches:
            self._words[word] = addresses[i] + at

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


def _pointers(step: KernelStep) -> int:
    """How many of a kernel's words are addresses."""
    return sum(v is not None for v in step.node.operands) + len(step.node.results) + 1 + len(step.tables)


def stream_number(stream: Any) -> int:
    """The handle of a CUDA stream of CuPy, PyTorch, Numba, or whatever has `__cuda_stream__`; or of a handle. Raises InputError."""
    found = stream
    if hasattr(stream, "__cuda_stream__"):
        found = stream.__cuda_stream__
        found = (found() if callable(found) else found)[1]
    else:
        name = next((n for n in ("cuda_stream", "ptr", "handle") if hasattr(stream, n)), None)
        found = stream if name is None else getattr(stream, name)
    try:
        return operator.index(getattr(found, "value", found) or LEGACY_STREAM)
    except TypeError:
        raise InputError(f"stream is a {type(stream).__name__}, expected a CUDA stream or its handle") from None


def open_device(name: str) -> Cuda:
    """The device "gpu", "shim" or "null". Raises CudaUnavailable where there is none."""
    from ..kernels.cuda.driver import Null, Shim

    if name == "gpu":
        from ..kernels.cuda.gpu import Gpu

        return Cuda(Gpu())
    return Cuda(Shim() if name == "shim" else Null())
