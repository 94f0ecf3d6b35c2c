"""A CUDA GPU, through CuPy: its memory pool, streams, modules and graphs. The only file that imports CuPy."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.errors import GraphmillError
from ...ir.locks import fork_safe_lock
from ..cpu.launch import address_of
from . import cubins, cublaslt, cudnn, library, nvrtc, source
from .cubins import Cubin
from .driver import Command, Foreign, Transfer

LibraryCall = cublaslt.Matmul | cudnn.GraphCall

HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3  # cudaMemcpyKind
DEFAULT_STREAM = 1  # cudaStreamLegacy
PINNED = 1  # cudaMemoryType: of the host, known to CUDA
MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
PROGRAMMATIC = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
STATIC_SHARED = 48 << 10  # bytes of shared memory that a kernel may have without asking


class CudaLaunchError(GraphmillError):
    """The driver refuses to launch a kernel."""


@functools.cache
def _cupy() -> Any:
    """CuPy, with a device. Raises CudaUnavailable, which says what is missing in one line."""
    try:
        import cupy
    except ImportError as e:
        raise nvrtc.CudaUnavailable(f"target cuda runs kernels through CuPy, which cannot be imported ({e}); "
                                    "pip install graphmill[cuda12] or graphmill[cuda13]") from e  # fmt: skip
    try:
        found = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as e:
        raise nvrtc.CudaUnavailable(f"there is no CUDA GPU that can be used: {e}") from e
    if not found:
        raise nvrtc.CudaUnavailable("there is no CUDA GPU: expected at least one in nvidia-smi -L")
    return cupy


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute, of a value that is a number."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [*((f"{of}_{axis}", ctypes.c_uint) for of in ("grid", "block") for axis in "xyz"), ("shared", ctypes.c_uint),
                ("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(_Attribute)), ("count", ctypes.c_uint)]  # fmt: skip


@functools.cache
def _libcuda() -> Any:
    """The driver's library, for what CuPy does not offer."""
    library = ctypes.CDLL("libcuda.so.1")
    library.cuLaunchKernelEx.argtypes = [ctypes.c_void_p] * 4
    return library


class _Launch:
    """Launches kernels on a stream. The driver copies what it is told, so that one structure serves for all launches: the first run
    of a signature, and a capture, make hundreds of them."""

    def __init__(self, stream: int):
        attribute = _Attribute(PROGRAMMATIC, b"", 1, b"")
        self._config = _Config(1, 1, 1, 1, 1, 1, 0, stream, ctypes.pointer(attribute), 0)
        self._told, self._parameters = ctypes.byref(self._config), (ctypes.c_void_p * 1)()
        self._call = _libcuda().cuLaunchKernelEx

    def __call__(self, function: int, shape: source.Shape, c: Command, follows: bool) -> None:
        """One that `follows` another may begin while that runs (prelude.cuh)."""
        config = self._config
        config.grid_x, config.block_x, config.shared, config.count = c.blocks, shape.threads, shape.shared, follows
        self._parameters[0] = address_of(c.words)
        code = self._call(self._told, function, self._parameters, None)
        if code:
            raise CudaLaunchError(f"cuLaunchKernelEx: error {code} for {c.blocks} blocks of {shape}")


class Gpu:
    """One GPU, and a stream on it (see `driver.Driver`). Memory comes from a pool of its own, given back with it."""

    repeats = 20

    def __init__(self, number: int = 0):
        cupy = _cupy()
        self._runtime, self._driver, self._module = cupy.cuda.runtime, cupy.cuda.driver, cupy.cuda.function.Module
        self._device, self.dlpack = cupy.cuda.Device(number), (2, number)
        self._event, self._elapsed = cupy.cuda.Event, cupy.cuda.get_elapsed_time
        self._lock = fork_safe_lock()
        self.cubins: dict[str, Cubin] = {}
        self._kernels: list[tuple[int, source.Shape] | LibraryCall] = []
        self._functions: dict[str, Any] = {}  # by text, as the cubins
        self._places: dict[str, int] = {}  # of texts among the kernels
        self._modules: list[Any] = []  # kept loaded
        self._overlaps = int(self._device.compute_capability) >= 90
        with self._device:
            self._pool, self._pinned = cupy.cuda.MemoryPool(), cupy.cuda.PinnedMemoryPool()
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._recorder = cupy.cuda.Stream(non_blocking=True)  # on which nothing runs
            self._mark = self._event(disable_timing=True)
        self.stream, self._lent = self._stream.ptr, False  # whether the default stream was ever told to wait for values

    @property
    def arch(self) -> str:
        """The architecture that nvrtc compiles for: sm_90."""
        return f"sm_{self._device.compute_capability}"

    def alloc(self, nbytes: int) -> _Memory:
        if self._lent:  # what is given out again may still be read there
            self.wait(DEFAULT_STREAM)
        with self._device, self._stream:
            return _Memory(self._pool.malloc(max(nbytes, 1)), nbytes)

    def adopt(self, memory: Foreign) -> None:
        pass

    def pinned(self, nbytes: int) -> np.ndarray:
        if not nbytes:
            return np.empty(0, np.uint8)
        with self._device:
            return np.frombuffer(self._pinned.malloc(nbytes), np.uint8, nbytes)

    def write(self, address: int, a: np.ndarray) -> None:
        at = a.ctypes.data
        with self._device:
            self._runtime.memcpyAsync(address, at, a.nbytes, HOST_TO_DEVICE, self.stream)
            if self._runtime.pointerGetAttributes(at).type == PINNED:  # else the call has read the array when it returns
                self._stream.synchronize()

    def read(self, a: np.ndarray, address: int) -> None:
        with self._device:
            self._runtime.memcpyAsync(a.ctypes.data, address, a.nbytes, DEVICE_TO_HOST, self.stream)
            self._stream.synchronize()

    def copy(self, to: int, address: int, nbytes: int) -> None:
        with self._device:
            self._runtime.memcpyAsync(to, address, nbytes, DEVICE_TO_DEVICE, self.stream)

    def clear(self, address: int, nbytes: int) -> None:
        with self._device:
            self._runtime.memsetAsync(address, 0, nbytes, self.stream)

    def synchronize(self) -> None:
        with self._device:
            self._stream.synchronize()

    def close(self) -> None:
        self.synchronize()
        with self._device:
            self._pool.free_all_blocks()
            self._pinned.free_all_blocks()

    def wait(self, stream: int) -> None:
        self._order(stream, self.stream)

    def hold(self, stream: int) -> None:
        self._order(self.stream, stream)
        self._lent = self._lent or stream == DEFAULT_STREAM

    def _order(self, first: int, second: int) -> None:
        """What one stream is asked for from now on comes after what is under way on the other."""
        with self._device, self._lock:  # the mark is the last one that was set, by whichever thread
            self._runtime.eventRecord(self._mark.ptr, first)
            self._runtime.streamWaitEvent(second, self._mark.ptr)

    def compile(self, texts: Sequence[str], jobs: int = 1) -> list[str]:
        missing = [t for t in texts if t not in self.cubins and not library.is_library(t)]
        found, reasons = cubins.find(missing, self.arch, jobs)
        refused = []
        for text, cubin in found.items():
            try:
                self._functions[text] = self._loaded(text, cubin)
                self.cubins[text] = cubin
            except self._driver.CUDADriverError:
                if not cubins.refuse(text, self.arch):
                    raise
                refused.append(text)  # what a file brought and the driver does not take is compiled anew
        return reasons + self.compile(refused, jobs) if refused else reasons

    def _loaded(self, text: str, cubin: Cubin) -> Any:
        with self._device:
            module = self._module()
            module.load(cubin.data)
            function, shared = module.get_function(source.entry(text)), source.shape_of(text).shared
            if shared > STATIC_SHARED:
                self._driver.funcSetAttribute(function.ptr, MAX_DYNAMIC_SHARED, shared)
        self._modules.append(module)
        return function

    def load(self, texts: Sequence[str]) -> list[int]:
        self.compile(texts)
        with self._device, self._lock:
            for text in texts:
                if text not in self._places:
                    plain = not library.is_library(text)
                    self._kernels.append((self._functions[text].ptr, source.shape_of(text)) if plain else self._call(text))
                    self._places[text] = len(self._kernels) - 1
        return [self._places[t] for t in texts]

    def _call(self, text: str) -> LibraryCall:
        """The call of a library, which keeps what it made for sizes."""
        declared, number = library.read(text), self._device.id
        if declared.library == "cublaslt":
            return cublaslt.Matmul(cublaslt.handle(number), declared, self._zero)
        return cudnn.GraphCall(cudnn.handle(number), declared, self._zero)

    def _zero(self, address: int, nbytes: int, stream: int) -> None:
        self._runtime.memsetAsync(address, 0, nbytes, stream)

    def choices(self, command: Command) -> int:
        """In how many ways a command can be carried out: algorithms of a library, one of which a text can name; 1 for a kernel."""
        kernel = self._kernels[command.kernel]
        with self._device:
            return 1 if isinstance(kernel, tuple) else kernel.choices(command.words)

    def run(self, commands: Sequence[Command | Transfer]) -> None:
        with self._device:
            self._issue(commands, self.stream)

    def capture(self, commands: Sequence[Command | Transfer]) -> Callable[[], None]:
        with self._device, self._lock:
            self._recorder.begin_capture()
            try:
                self._issue(commands, self._recorder.ptr)
            finally:
                graph = self._recorder.end_capture()

        def run() -> None:
            with self._device:
                graph.launch(self._stream)

        return run

    def seconds(self, commands: Sequence[Command], repeats: int = repeats) -> list[float]:
        """How long each kernel takes, in seconds: the mean of `repeats` launches that follow each other in a graph."""
        out = []
        for c in commands:
            took = self.timer([c] * repeats)
            took()
            out.append(took() / repeats)
        return out

    def timer(self, commands: Sequence[Command]) -> Callable[[], float]:
        run = self.capture(commands)

        def took() -> float:
            with self._device:
                before, after = self._event(), self._event()
                before.record(self._stream)
                run()
                after.record(self._stream)
                after.synchronize()
                return self._elapsed(before, after) / 1e3

        return took

    @property
    def about(self) -> tuple[str, str]:
        name, driver = self._runtime.getDeviceProperties(self._device.id)["name"], self._runtime.driverGetVersion()
        return name.decode(), f"driver {driver}, cuBLASLt {cublaslt.version()}, cuDNN {cudnn.version()}"

    def _issue(self, commands: Sequence[Command | Transfer], stream: int) -> None:
        launch = _Launch(stream)
        follows = False  # whether a kernel is the last that was asked for
        for c in commands:
            if isinstance(c, Transfer):
                self._transfer(c, stream)
                follows = False
                continue
            if c.flag:
                self._runtime.memsetAsync(c.flag, 0, 8, stream)
                follows = False
            kernel = self._kernels[c.kernel]
            if c.blocks and isinstance(kernel, tuple):
                launch(*kernel, c, follows)
                follows = self._overlaps
            elif c.blocks:
                kernel(c.words, stream)
                follows = False

    def _transfer(self, c: Transfer, stream: int) -> None:
        host = c.host.ctypes.data
        to, at, kind = (c.address, host, HOST_TO_DEVICE) if c.to_device else (host, c.address, DEVICE_TO_HOST)
        self._runtime.memcpyAsync(to, at, c.host.nbytes, kind, stream)


class _Memory:
    """A piece of the pool's memory."""

    def __init__(self, pointer: Any, nbytes: int):
        self._pointer, self.address, self.nbytes = pointer, pointer.ptr, nbytes
