"""What gpu.py uses of CuPy, on the CPU: memory of the host, kernels by the shim, graphs as lists of calls.

It shows that gpu.py calls these functions as they are declared (names, numbers and order of arguments were read off CuPy 14.2) and that
nothing is allocated or copied while a graph is captured. What a GPU does it does not show.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from graphmill.kernels.cuda import cubins, nvrtc, shim, source


class CUDADriverError(RuntimeError):
    pass


class Fake:
    """A machine with one GPU. `install(monkeypatch)` puts it in the place of CuPy and of nvrtc."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.recording: list[Callable[[], None]] | None = None
        self.functions: dict[int, shim.Kernel] = {}
        self.texts: dict[str, str] = {}  # by their entries
        self.compiled: list[str] = []  # entries
        self.live = 0
        self.names: dict[int, str] = {}  # of streams
        self.pinned: dict[int, bytearray] = {}
        self.recorded: dict[int, int] = {}  # by event: the stream on which it was recorded last

    def install(self, monkeypatch: Any) -> None:
        from graphmill.kernels.cuda import gpu

        real = source.program

        def program(texts: Any) -> str:
            self.texts |= {source.entry(t): t for t in texts}
            return real(texts)

        monkeypatch.setattr(gpu, "_cupy", lambda: self.cupy())
        monkeypatch.setattr(gpu, "_libcuda", lambda: self.libcuda)
        monkeypatch.setattr(source, "program", program)
        monkeypatch.setattr(nvrtc, "compile_program", self.compile_program)
        monkeypatch.setattr(nvrtc, "version", lambda: (13, 0))
        monkeypatch.setattr(cubins, "_adopted", {})
        monkeypatch.setattr(cubins, "explain_misses", lambda wanted: ["not kept"] * len(wanted))  # a large cache takes long to read

    def compile_program(self, program: str, arch: str) -> nvrtc.Compiled:
        names = re.findall(r"^#define NAME (k_\w+)$", program, re.M)
        self.compiled += names
        return nvrtc.Compiled(" ".join(["cubin", arch, *names]).encode(), {})

    def cupy(self) -> Any:
        fake = self

        class Device:
            compute_capability = "90"

            def __init__(self, number: int):
                assert number == 0
                self.id = number

            def __enter__(self) -> Device:
                return self

            def __exit__(self, *_: Any) -> None:
                pass

        class Stream:
            def __init__(self, *, non_blocking: bool):
                assert non_blocking
                self.ptr = id(self)
                fake.names.setdefault(self.ptr, ("ours", "recorder")[len(fake.names) % 2])

            def __enter__(self) -> Stream:
                return self

            def __exit__(self, *_: Any) -> None:
                pass

            def synchronize(self) -> None:
                assert fake.recording is None
                fake.calls.append("synchronize")

            def begin_capture(self) -> None:
                assert fake.recording is None
                fake.recording = []

            def end_capture(self) -> Graph:
                done, fake.recording = fake.recording, None
                assert done is not None
                fake.calls.append(f"captured {len(done)}")
                return Graph(done)

        class Event:
            def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
                self.ptr = id(self)

            def record(self, stream: Stream) -> None:
                assert isinstance(stream, Stream)

            def synchronize(self) -> None:
                pass

        class Graph:
            def __init__(self, calls: list[Callable[[], None]]):
                self.recorded = calls

            def launch(self, stream: Stream) -> None:
                fake.calls.append("graph")
                for call in self.recorded:
                    call()

        class Pointer:
            def __init__(self, nbytes: int):
                self.raw = np.full(nbytes + 256, 0xA5, np.uint8)
                self.ptr = self.raw.ctypes.data + -self.raw.ctypes.data % 256
                fake.live += 1

            def __del__(self) -> None:
                fake.live -= 1

        class MemoryPool:
            def malloc(self, nbytes: int) -> Pointer:
                assert fake.recording is None and nbytes > 0
                return Pointer(nbytes)

            def free_all_blocks(self) -> None:
                fake.calls.append("free")

        class PinnedMemoryPool:
            def malloc(self, nbytes: int) -> bytearray:
                assert nbytes > 0
                return fake.pinned.setdefault(id(made := bytearray(nbytes + 100)), made)  # such blocks are longer, too

            def free_all_blocks(self) -> None:
                fake.calls.append("free pinned")

        class Module:
            def load(self, cubin: bytes) -> None:
                self.says = cubin.decode(errors="replace").split(" ")
                if self.says[:2] != ["cubin", "sm_90"]:
                    raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE")

            def get_function(self, name: str) -> Any:
                if name not in self.says:
                    raise CUDADriverError("CUDA_ERROR_NOT_FOUND")
                kernel = shim.load([fake.texts[name]])[fake.texts[name]]
                fake.functions[id(kernel)] = kernel
                return SimpleNamespace(ptr=id(kernel))

        def do(call: Callable[[], None], name: str) -> None:
            if fake.recording is not None:
                fake.recording.append(call)
            else:
                fake.calls.append(name)
                call()

        def memcpy(dst: int, src: int, size: int, kind: int, stream: int) -> None:
            assert kind in (1, 2, 3)
            assert fake.recording is None or is_pinned((0, src, dst)[kind]), "only pinned memory can be copied by a graph"
            do(lambda: ctypes.memmove(dst, src, size) and None, ("", "write", "read", "copy")[kind])

        def is_pinned(address: int) -> bool:
            starts = [np.frombuffer(b, np.uint8).ctypes.data for b in fake.pinned.values()]
            return any(0 <= address - at < len(b) for at, b in zip(starts, fake.pinned.values(), strict=True))

        def record(event: int, stream: int) -> None:
            assert fake.recording is None and stream
            fake.recorded[event] = stream

        def wait(stream: int, event: int) -> None:
            assert fake.recording is None and stream
            fake.calls.append(f"{fake.names.get(stream, stream)} waits for {fake.names.get(s := fake.recorded[event], s)}")

        def memset(ptr: int, value: int, size: int, stream: int) -> None:
            do(lambda: ctypes.memset(ptr, value, size) and None, "memset")

        def launch(config: Any, function: int, parameters: Any, extra: None) -> int:
            c, kernel = config._obj, fake.functions[function]
            assert (c.grid_y, c.grid_z, c.block_y, c.block_z) == (1, 1, 1, 1)
            assert (c.block_x, c.shared) == (kernel.shape.threads, kernel.shape.shared)
            assert c.count == 0 or (c.attributes[0].id, c.attributes[0].value) == (6, 1)
            words = np.ctypeslib.as_array((ctypes.c_int64 * kernel.shape.words).from_address(parameters[0])).copy()
            blocks, follows = c.grid_x, bool(c.count)
            do(lambda: kernel(words, blocks), "launch behind" if follows else "launch")
            return 0

        self.do = do
        self.libcuda = SimpleNamespace(cuLaunchKernelEx=launch)
        runtime = SimpleNamespace(getDeviceProperties=lambda number: {"name": b"a GPU"}, driverGetVersion=lambda: 13000,
                                  memcpyAsync=memcpy, memsetAsync=memset, eventRecord=record, streamWaitEvent=wait,
                                  pointerGetAttributes=lambda ptr: SimpleNamespace(type=int(is_pinned(ptr))))  # fmt: skip
        driver = SimpleNamespace(funcSetAttribute=lambda f, attribute, value: self._allow(attribute, value),
                                 CUDADriverError=CUDADriverError)  # fmt: skip
        cuda = SimpleNamespace(runtime=runtime, driver=driver, function=SimpleNamespace(Module=Module), Device=Device, Stream=Stream, Event=Event,
                               MemoryPool=MemoryPool, PinnedMemoryPool=PinnedMemoryPool, get_elapsed_time=lambda start, end: 2.0)  # fmt: skip
        return SimpleNamespace(cuda=cuda)

    def _allow(self, attribute: int, value: int) -> None:
        assert attribute == 8 and value > 48 << 10
        self.calls.append("shared")
