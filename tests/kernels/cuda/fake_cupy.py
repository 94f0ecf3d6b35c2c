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

    def install(self, monkeypatch: Any) -> None:
        from graphmill.kernels.cuda import gpu

        real = source.program

        def program(texts: Any) -> str:
            self.texts |= {source.entry(t): t for t in texts}
            return real(texts)

        monkeypatch.setattr(gpu, "_cupy", lambda: self.cupy())
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

            def __enter__(self) -> Device:
                return self

            def __exit__(self, *_: Any) -> None:
                pass

        class Stream:
            def __init__(self, *, non_blocking: bool):
                assert non_blocking
                self.ptr = id(self)

            def __enter__(self) -> Stream:
                return self

            def __exit__(self, *_: Any) -> None:
                pass

            def wait_event(self, event: str) -> None:
                assert fake.recording is None
                fake.calls.append(f"wait for {event}")

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

        class ExternalStream:
            def __init__(self, ptr: int):
                self.ptr = ptr

            def record(self) -> str:
                return f"stream {self.ptr}"

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
            assert fake.recording is None and kind in (1, 2, 3)
            do(lambda: ctypes.memmove(dst, src, size) and None, ("", "write", "read", "copy")[kind])

        def memset(ptr: int, value: int, size: int, stream: int) -> None:
            do(lambda: ctypes.memset(ptr, value, size) and None, "memset")

        def launch(f: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, parameters: int,
                   extra: int) -> None:  # fmt: skip
            kernel = fake.functions[f]
            assert (gy, gz, by, bz, extra) == (1, 1, 1, 1, 0) and (bx, shared) == (kernel.shape.threads, kernel.shape.shared)
            address = ctypes.c_uint64.from_address(parameters).value
            words = np.ctypeslib.as_array((ctypes.c_int64 * kernel.shape.words).from_address(address)).copy()
            do(lambda: kernel(words, gx), "launch")

        runtime = SimpleNamespace(memcpyAsync=memcpy, memsetAsync=memset)
        driver = SimpleNamespace(launchKernel=launch, funcSetAttribute=lambda f, attribute, value: self._allow(attribute, value),
                                 CUDADriverError=CUDADriverError)  # fmt: skip
        cuda = SimpleNamespace(runtime=runtime, driver=driver, function=SimpleNamespace(Module=Module), Device=Device, Stream=Stream, ExternalStream=ExternalStream,
                               MemoryPool=MemoryPool, Event=None, get_elapsed_time=None)  # fmt: skip
        return SimpleNamespace(cuda=cuda)

    def _allow(self, attribute: int, value: int) -> None:
        assert attribute == 8 and value > 48 << 10
        self.calls.append("shared")
