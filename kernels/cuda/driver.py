"""What runs CUDA kernels, as the engine sees it: memory, copies, launches. The GPU (gpu.py), the CPU in its place (the shim), or
nothing at all (a device that only keeps account)."""

from __future__ import annotations

import ctypes
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

import numpy as np

from ...ir.errors import GraphmillError
from . import shim, source
from .cubins import Cubin
from .library_shim import LibraryCall

ALIGN = 256  # bytes, as cudaMalloc aligns


class CudaMemoryError(GraphmillError):
    """A kernel is given, or a copy goes to, an address that is in no memory that lives."""


class Memory(Protocol):
    """Bytes of a device, freed when nobody holds this."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(eq=False)
class Foreign:
    """Memory of another library's, or of another driver's, array, which is kept."""

    owner: Any
    address: int
    nbytes: int


class Driver(Protocol):
    """A device, and one stream on it: what is asked for is done in this order, and may be under way when a call returns.

    Streams are told by CUDA's handles: 1 is the default stream. `stream` is this one's (0: there are none), and `dlpack` is what
    DLPack calls the place of its memory: a kind of devices and a number."""

    stream: int
    dlpack: tuple[int, int]
    repeats: int  # how often a kernel has to run to be timed

    def alloc(self, nbytes: int) -> Memory:
        """Uninitialised bytes, from a multiple of 256 on."""

    def adopt(self, memory: Foreign) -> None:
        """Says that kernels and copies may be given such memory while it is kept."""

    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes of the host which a `Transfer` can read and write."""

    def write(self, address: int, a: np.ndarray) -> None:
        """Copies a contiguous array to the device; it may change as soon as this returns."""

    def read(self, a: np.ndarray, address: int) -> None:
        """Fills a contiguous array from the device, when all before it is done."""

    def copy(self, to: int, address: int, nbytes: int) -> None:
        """Copies within the device."""

    def clear(self, address: int, nbytes: int) -> None:
        """Sets bytes to zero."""

    def synchronize(self) -> None:
        """Returns when all that was asked for is done."""

    def close(self) -> None:
        """Waits, and gives memory that nobody holds back to the system."""

    def wait(self, stream: int) -> None:
        """What is asked for from now on comes after what is under way on another stream."""

    def hold(self, stream: int) -> None:
        """What another stream is asked for from now on comes after what is under way here. If that is the default one, memory is
        not given out again before what it was asked for by then is done."""

    @property
    def cubins(self) -> Mapping[str, Cubin]:
        """What was compiled for the device, or taken from files, by text; nothing where kernels are no cubins."""

    def compile(self, texts: Sequence[str], jobs: int = 1) -> list[str]:
        """Finds and loads the cubins of these texts, compiling in up to `jobs` threads what is missing; why each of these was.
        Raises CudaCompileError, CudaUnavailable."""

    def load(self, texts: Sequence[str]) -> list[int]:
        """What stands for the kernels of these texts in `launch`. Raises CudaCompileError, CudaUnavailable."""

    def run(self, commands: Sequence[Command | Transfer]) -> None:
        """Runs kernels and copies, one after the other."""

    def capture(self, commands: Sequence[Command | Transfer]) -> Callable[[], None]:
        """What `run` does now, as one call that does it again with these very addresses."""

    def seconds(self, commands: Sequence[Command]) -> list[float]:
        """How long each kernel takes by itself."""

    def timer(self, commands: Sequence[Command]) -> Callable[[], float]:
        """What runs these kernels, captured as they are, and says how many seconds they took."""

    def choices(self, command: Command) -> int:
        """In how many ways a command can be carried out: algorithms of a library; 1 for a kernel."""

    @property
    def about(self) -> tuple[str, str]:
        """The device's name; versions of what runs kernels on it."""


class Command(NamedTuple):
    """The launch of a kernel, as `load` calls it, on its contiguous int64 `words`, of which the first `pointers` are addresses. The
    8 bytes at the address `flag` (0: none) are cleared before."""

    kernel: int
    words: np.ndarray
    blocks: int
    pointers: int
    flag: int = 0


class Transfer(NamedTuple):
    """A copy between the device and the host's pinned memory, as one of the commands: `host` is looked at when it runs."""

    to_device: bool
    address: int
    host: np.ndarray  # contiguous


def as_they_are(commands: Sequence[Command | Transfer]) -> list[Command | Transfer]:
    """The commands with words of their own."""
    return [c._replace(words=c.words.copy()) if isinstance(c, Command) else c for c in commands]


class _Block:
    """Memory whose life is kept account of."""

    def __init__(self, owner: Accounts, address: int, nbytes: int, raw: object = None):
        self.address, self.nbytes, self._owner, self._raw = address, nbytes, owner, raw
        owner.live[address], owner.starts = nbytes, None

    def __del__(self) -> None:
        self._owner.live.pop(self.address, None)
        self._owner.starts = None
        self._owner.freed.append((self.nbytes, self.address))


class Accounts:
    """What lives in the memory of a device that has no cubins."""

    stream = 0
    repeats = 1

    @property
    def about(self) -> tuple[str, str]:
        return type(self).__name__.lower(), ""

    def choices(self, command: Command) -> int:
        return 1

    def __init__(self) -> None:
        self.cubins: dict[str, Cubin] = {}
        self.live: dict[int, int] = {}
        self.starts: list[int] | None = None  # of what lives, in order; None where that has changed
        self.freed: list[tuple[int, int]] = []  # the latest last
        self.foreign = WeakSet[Foreign]()

    def adopt(self, memory: Foreign) -> None:
        self.foreign.add(memory)

    def check(self, address: int, nbytes: int, what: str) -> None:
        """Raises CudaMemoryError where not all of these bytes are in one block that lives, or is foreign."""
        starts = self.starts
        if starts is None:
            starts = self.starts = sorted(self.live)
        at = bisect_right(starts, address) - 1
        if at >= 0 and address + nbytes <= starts[at] + self.live[starts[at]]:
            return
        if not any(x.address <= address and address + nbytes <= x.address + x.nbytes for x in self.foreign):
            raise CudaMemoryError(f"{what}: {nbytes} bytes at {address:#x} are in no memory that lives")

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def wait(self, stream: int) -> None:
        """Nothing is under way there either."""

    hold = wait

    def compile(self, texts: Sequence[str], jobs: int = 1) -> list[str]:
        return []

    def close(self) -> None:
        self.freed.clear()

    def check_command(self, c: Command) -> None:
        for i, address in enumerate(c.words[: c.pointers].tolist()):
            self.check(address, 0, f"parameter {i} of a kernel")


class Shim(Accounts):
    """Kernels run on the CPU (shim.py) in memory of the host; what is not initialised is full of 0xA5."""

    dlpack = 1, 0

    def __init__(self) -> None:
        super().__init__()
        self._kernels: list[shim.Kernel | LibraryCall] = []

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.full(nbytes, 0xA5, np.uint8)

    def alloc(self, nbytes: int) -> _Block:
        raw = np.full(max(nbytes, 1) + ALIGN, 0xA5, np.uint8)
        return _Block(self, raw.ctypes.data + -raw.ctypes.data % ALIGN, max(nbytes, 1), raw)

    def write(self, address: int, a: np.ndarray) -> None:
        self._view(address, a.nbytes, "a copy to the device")[...] = a.reshape(-1).view(np.uint8)

    def read(self, a: np.ndarray, address: int) -> None:
        a.reshape(-1).view(np.uint8)[...] = self._view(address, a.nbytes, "a copy from the device")

    def copy(self, to: int, address: int, nbytes: int) -> None:
        self._view(to, nbytes, "a copy")[...] = self._view(address, nbytes, "a copy")

    def clear(self, address: int, nbytes: int) -> None:
        self._view(address, nbytes, "clearing")[...] = 0

    def load(self, texts: Sequence[str]) -> list[int]:
        found = shim.load(texts)
        first = len(self._kernels)
        self._kernels += [found[t] for t in texts]
        return list(range(first, len(self._kernels)))

    def run(self, commands: Sequence[Command | Transfer]) -> None:
        for c in commands:
            if isinstance(c, Transfer):
                self.write(c.address, c.host) if c.to_device else self.read(c.host, c.address)
                continue
            self.check_command(c)
            if c.flag:
                self.clear(c.flag, 8)
            if c.blocks:
                self._kernels[c.kernel](c.words, c.blocks)

    def capture(self, commands: Sequence[Command | Transfer]) -> Callable[[], None]:
        kept = as_they_are(commands)
        return lambda: self.run(kept)

    def seconds(self, commands: Sequence[Command]) -> list[float]:
        """By the clock, one run of each."""
        return [self.timer([c])() for c in commands]

    def timer(self, commands: Sequence[Command]) -> Callable[[], float]:
        kept = as_they_are(commands)

        def took() -> float:
            started = time.perf_counter()
            self.run(kept)
            return time.perf_counter() - started

        return took

    def _view(self, address: int, nbytes: int, what: str) -> np.ndarray:
        self.check(address, nbytes, what)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


class Null(Accounts):
    """A device that computes nothing: it keeps account of memory and of what it was asked for, in order. What is read is zero."""

    dlpack = 2, 0

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple] = []
        self._entries: list[str] = []
        self._top = 1 << 40

    def alloc(self, nbytes: int) -> _Block:
        """As a pool does it: what was freed last is given out first."""
        for i in range(len(self.freed) - 1, -1, -1):
            if self.freed[i][0] == max(nbytes, 1):
                return _Block(self, self.freed.pop(i)[1], max(nbytes, 1))
        block = _Block(self, self._top, max(nbytes, 1))
        self._top += -(-max(nbytes, 1) // ALIGN) * ALIGN + ALIGN
        return block

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.zeros(nbytes, np.uint8)

    def write(self, address: int, a: np.ndarray) -> None:
        self.check(address, a.nbytes, "a copy to the device")
        self.log.append(("write", address, a.nbytes))

    def read(self, a: np.ndarray, address: int) -> None:
        self.check(address, a.nbytes, "a copy from the device")
        self.log.append(("read", address, a.nbytes))
        a[...] = np.zeros((), a.dtype)

    def copy(self, to: int, address: int, nbytes: int) -> None:
        self.check(address, nbytes, "a copy")
        self.check(to, nbytes, "a copy")
        self.log.append(("copy", to, address, nbytes))

    def clear(self, address: int, nbytes: int) -> None:
        self.check(address, nbytes, "clearing")
        self.log.append(("clear", address, nbytes))

    def load(self, texts: Sequence[str]) -> list[int]:
        for t in texts:
            source.words_of(t)
        first = len(self._entries)
        self._entries += [source.entry(t) for t in texts]
        return list(range(first, len(self._entries)))

    def run(self, commands: Sequence[Command | Transfer]) -> None:
        for c in commands:
            if isinstance(c, Transfer):
                self.write(c.address, c.host) if c.to_device else self.read(c.host, c.address)
                continue
            self.check_command(c)
            if c.flag:
                self.clear(c.flag, 8)
            self.log.append(("launch", self._entries[c.kernel], tuple(c.words.tolist()), c.blocks))

    def capture(self, commands: Sequence[Command | Transfer]) -> Callable[[], None]:
        kept = as_they_are(commands)
        self.log.append(("capture", len(kept)))
        return lambda: self.run(kept)

    def seconds(self, commands: Sequence[Command]) -> list[float]:
        return [0.0] * len(commands)

    def timer(self, commands: Sequence[Command]) -> Callable[[], float]:
        return lambda: 0.0
