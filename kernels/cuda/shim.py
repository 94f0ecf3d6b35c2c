"""CUDA kernels run on the CPU: the program that nvrtc compiles, made a shared library by a C++ compiler, shim.hpp before it.

It is how kernels are tested without a GPU. All threads of a block exist, with barriers, warps and shared memory. What would hang
is an error, and so is what the text does outside of its memory or where C++ leaves GPUs and CPUs to differ; the message names the
block, the thread and, for most, the line. Floats may be rounded otherwise than on a GPU, which may join a product and a sum.
Libraries are kept in graphmill's cache, one for all the texts that were compiled together.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import importlib.util
import mmap
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from ...ir.errors import GraphmillError
from ...ir.locks import fork_safe_lock
from ..cpu.cache import cache_dir, remove_abandoned, writable
from ..cpu.cpus import granted_cpus
from . import source
from .library import is_library
from .library_shim import LibraryCall
from .nvrtc import CudaCompileError, CudaUnavailable

FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-fno-exceptions", "-fno-rtti", "-fno-stack-protector",
         "-fstack-clash-protection", "-fno-strict-aliasing", "-fno-math-errno", "-ffp-contract=off",
         "-fvisibility=hidden")  # fmt: skip
# Where GPUs do something else than CPUs, or fault: shim.hpp has what is called then.
CHECKS = ("-fsanitize=alignment,bounds,float-cast-overflow,integer-divide-by-zero,shift-exponent", "-nodefaultlibs", "-Wl,-z,defs")
PARALLEL_FROM = 16  # texts for a second compiler: it reads the prelude again, which costs as much as 8 texts
STACK = 65536  # bytes of a thread's stack, as in shim.hpp


class CudaLaunchError(GraphmillError):
    """A kernel cannot go on: a barrier that not all threads reach, a shuffle from a lane that takes no part."""


@functools.cache
def compiler() -> tuple[str, ...]:
    """The command of the C++ compiler: $CXX, c++, g++, clang++, else that of the package ziglang (as C, since it then builds no C++
    library first). Raises CudaUnavailable."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise CudaUnavailable(
            f"CUDA kernels run on the CPU of x86-64 and aarch64 Linux; this is {platform.machine()} {sys.platform}"
        )
    for command in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return tuple(words)
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc")
    raise CudaUnavailable("running CUDA kernels on the CPU takes a C++ compiler, and there is none: expected $CXX, c++, g++ or "
                          "clang++; try `pip install ziglang`")  # fmt: skip


@functools.cache
def _version() -> str:
    return subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]


@functools.cache
def _prefix() -> tuple[str, str]:
    """What stands before every text, and the hash of all but the text that a library depends on."""
    before = "".join(f'#line 1 "{name}"\n{(Path(__file__).parent / name).read_text()}' for name in ("shim.hpp", "builtins.hpp"))
    about = [*FLAGS, *CHECKS, *compiler(), _version(), platform.machine(), before, source.prelude()]
    return before, hashlib.sha256("\n".join(about).encode()).hexdigest()


@functools.cache
def _private() -> Path:
    """A folder of this process, removed when it ends."""
    folder = tempfile.TemporaryDirectory(prefix="graphmill-shim-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _path(texts: Iterable[str]) -> Path:
    """Where the library of these texts is kept: in the cache if it can be written."""
    key = hashlib.sha256("\n".join([_prefix()[1], *(source.entry(t) for t in texts)]).encode()).hexdigest()
    return (cache_dir() if writable() else _private()) / "shim" / f"{key}.so"


# ---- compiling --------------------------------------------------------------------------------------------------


def load(texts: Iterable[str]) -> dict[str, Kernel | LibraryCall]:
    """The kernels of these texts, ready to run; those that no library in the cache has are compiled together, in one library or,
    if they are many, in one for each CPU. Calls of NVIDIA's libraries are carried out by numpy.

    Raises CudaCompileError, CudaUnavailable, KernelTextError.
    """
    texts = list(dict.fromkeys(texts))
    calls = {t: LibraryCall(t) for t in texts if is_library(t)}
    wanted = [t for t in texts if t not in calls]
    missing = [t for t in wanted if not _path([t]).exists()]
    jobs = min(granted_cpus(), -(-len(missing) // PARALLEL_FROM))
    if missing:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(_build, [missing[i::jobs] for i in range(jobs)]))
    return {t: Kernel(t) for t in wanted} | calls


def _build(texts: list[str]) -> None:
    """Compiles these texts into one library, to which the paths of each of them then lead."""
    path = _path(texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    program = _prefix()[0] + source.program(texts)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as f:
        made = f.name
    try:
        command = [*compiler(), *FLAGS, *CHECKS, "-x", "c++", "-", "-o", made, "-lm", "-lc"]
        done = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CudaCompileError(f"a CUDA program does not compile for the CPU:\n{done.stderr}")
        os.replace(made, path)
    finally:
        with suppress(OSError):
            os.unlink(made)
    for text in texts:
        _point(_path([text]), path)


def _point(link: Path, path: Path) -> None:
    """Makes `link` lead to a file beside it."""
    if link == path:
        return
    new = link.with_suffix(f".{os.getpid()}.tmp")
    with suppress(FileExistsError):
        new.symlink_to(path.name)
    os.replace(new, link)


# ---- running ----------------------------------------------------------------------------------------------------


@functools.cache
def _stacks() -> tuple[mmap.mmap, int]:
    """Memory for the stacks of a block's threads, and its address. What no thread touches costs nothing; the end of each stack
    cannot be touched."""
    memory = mmap.mmap(-1, source.MOST_THREADS * STACK)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for t in range(source.MOST_THREADS):
        _forbid(address + t * STACK)
    return memory, address


def _forbid(address: int) -> None:
    """Makes touching a page an error."""
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError("mprotect failed")


def guarded(array: np.ndarray, align: int = 16) -> np.ndarray:
    """A copy of an array at the end of its memory: a kernel that touches what lies beyond is an error.

    Its address is a multiple of `align`, so that up to `align - 1` bytes beyond can be touched. Before it lie NaNs.
    """
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    memory[:size] = b"\xff" * size
    _forbid(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size)
    start = (size - array.nbytes) // align * align
    copy = np.frombuffer(memory, np.uint8, array.nbytes, start).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


_lock = fork_safe_lock()  # a library's blocks share its static memory, all of them the stacks


class Kernel:
    """A kernel that runs on the CPU: `kernel(words, blocks)`."""

    def __init__(self, text: str):
        self.text, self.shape = text, source.shape_of(text)
        self._function = getattr(ctypes.CDLL(str(_path([text]))), source.entry(text))
        self._function.restype = ctypes.c_char_p
        self._function.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_ulonglong,
        ]
        self._shared = np.empty(self.shape.shared + 128, np.uint8)

    def __call__(self, words: np.ndarray, blocks: int, *, backwards: bool = False) -> None:
        """Runs all blocks. `words` is an int64 array of as many words as the kernel has, addresses among them.

        `backwards` begins with the last block and the last thread of each: a kernel whose result changes lacks a barrier.
        Raises CudaLaunchError where threads wait for ever.
        """
        if words.dtype != np.int64 or words.shape != (self.shape.words,) or not words.flags.c_contiguous:
            raise CudaLaunchError(f"words of {words.dtype} {words.shape}; expected {self.shape.words} contiguous int64")
        if not 0 <= blocks <= source.MOST_INDEX:
            raise CudaLaunchError(f"{blocks} blocks; expected 0 to 2^31 - 1")
        shared = self._shared.ctypes.data + -self._shared.ctypes.data % 128
        with _lock:
            said = self._function(words.ctypes.data, blocks, backwards, _stacks()[1], shared, self.shape.shared)
        if said:
            raise CudaLaunchError(f"{said.decode()}\n{self.text}")
