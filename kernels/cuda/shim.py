"""CUDA kernels run on the CPU: the program that nvrtc compiles, made a shared library by a C++ compiler, shim.hpp before it.

It is how kernels are tested without a GPU. All threads of a block exist, with barriers, warps and shared memory. What would hang
is an error, and so is what the text does outside of its memory or where C++ leaves GPUs and CPUs to differ; the message names the
block, the thread and, for most, the line. Floats may be rounded otherwise than on a GPU, which may join a product and a sum.
Libraries are kept in graphmill's cache, one for all the texts that were compiled together.

With GRAPHMILL_SHIM=sanitize in the environment, each load and store of a kernel is looked at: what compute-sanitizer's memcheck,
racecheck and initcheck find is an error (sanitizer.hpp).
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
from collections.abc import Iterable, Sequence
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
from .watch import Array, Watch

FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-fno-exceptions", "-fno-rtti", "-fno-stack-protector",
         "-fstack-clash-protection", "-fno-strict-aliasing", "-fno-math-errno", "-ffp-contract=off",
         "-fvisibility=hidden")  # fmt: skip
# Where GPUs do something else than CPUs, or fault: shim.hpp has what is called then.
CHECKS = ("-fsanitize=alignment,bounds,float-cast-overflow,integer-divide-by-zero,shift-exponent", "-nodefaultlibs", "-Wl,-z,defs")
# Each load and store calls a function, which sanitizer.hpp has; lines of the text for each address of the library.
WATCHED = ("-fsanitize=thread", "-g1")
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


def sanitizing() -> bool:
    """Whether GRAPHMILL_SHIM=sanitize stands in the environment."""
    return os.environ.get("GRAPHMILL_SHIM") == "sanitize"


@functools.cache
def _prefix(sanitize: bool) -> tuple[str, str]:
    """What stands before every text, and the hash of all but the text that a library depends on."""
    files = ("shim.hpp", "order.hpp", "sanitizer.hpp", "builtins.hpp") if sanitize else ("shim.hpp", "builtins.hpp")
    before = "#define GRAPHMILL_SANITIZE 1\n" * sanitize
    before += "".join(f'#line 1 "{name}"\n{(Path(__file__).parent / name).read_text()}' for name in files)
    about = [*FLAGS, *CHECKS, *WATCHED * sanitize, *compiler(), _version(), platform.machine(), before, source.prelude()]
    return before, hashlib.sha256("\n".join(about).encode()).hexdigest()


@functools.cache
def _private() -> Path:
    """A folder of this process, removed when it ends."""
    folder = tempfile.TemporaryDirectory(prefix="graphmill-shim-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _path(texts: Iterable[str], sanitize: bool) -> Path:
    """Where the library of these texts is kept: in the cache if it can be written."""
    key = hashlib.sha256("\n".join([_prefix(sanitize)[1], *(source.entry(t) for t in texts)]).encode()).hexdigest()
    return (cache_dir() if writable() else _private()) / "shim" / f"{key}.so"


# ---- compiling --------------------------------------------------------------------------------------------------


def load(texts: Iterable[str], sanitize: bool | None = None) -> dict[str, Kernel | LibraryCall]:
    """The kernels of these texts, ready to run; those that no library in the cache has are compiled together, in one library or,
    if they are many, in one for each CPU. Calls of NVIDIA's libraries are carried out by numpy. `sanitize` (by default what
    `sanitizing` says) makes kernels whose accesses are watched.

    Raises CudaCompileError, CudaUnavailable, KernelTextError.
    """
    texts = list(dict.fromkeys(texts))
    sanitize = sanitizing() if sanitize is None else sanitize
    calls = {t: LibraryCall(t) for t in texts if is_library(t)}
    wanted = [t for t in texts if t not in calls]
    missing = [t for t in wanted if not _path([t], sanitize).exists()]
    jobs = min(granted_cpus(), -(-len(missing) // PARALLEL_FROM))
    if missing:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda i: _build(missing[i::jobs], sanitize), range(jobs)))
    return {t: Kernel(t, sanitize) for t in wanted} | calls


def _build(texts: list[str], sanitize: bool) -> None:
    """Compiles these texts into one library, to which the paths of each of them then lead."""
    path = _path(texts, sanitize)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    program = _prefix(sanitize)[0] + source.program(texts)
    with tempfile.TemporaryDirectory(dir=path.parent, suffix=".tmp") as folder:
        made, library = f"{folder}/made.o", f"{folder}/made.so"
        # Where the same command links, it may bring the thread sanitizer's own library.
        _command([*FLAGS, *CHECKS, *WATCHED * sanitize, "-c", "-x", "c++", "-", "-o", made], program)
        _command([*FLAGS, *CHECKS, made, "-o", library, "-lm", "-lc"])
        os.replace(library, path)
    for text in texts:
        _point(_path([text], sanitize), path)


def _command(words: list[str], program: str = "") -> None:
    done = subprocess.run([*compiler(), *words], input=program, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CudaCompileError(f"a CUDA program does not compile for the CPU:\n{done.stderr}")


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

    def __init__(self, text: str, sanitize: bool = False):
        self.text, self.shape = text, source.shape_of(text)
        path = _path([text], sanitize).resolve()
        library = ctypes.CDLL(str(path))
        self._watch = Watch(library, path, source.entry(text)) if sanitize else None
        self._function = getattr(library, source.entry(text))
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

    def __call__(self, words: np.ndarray, blocks: int, *, backwards: bool = False, memory: Sequence[Array] | None = None) -> None:
        """Runs all blocks. `words` is an int64 array of as many words as the kernel has, addresses among them.

        `backwards` begins with the last block and the last thread of each: a kernel whose result changes lacks a barrier. `memory`
        is all that a watched kernel may touch beside its own; without it, only shared memory and the program's variables are
        watched. Raises CudaLaunchError where threads wait for ever.
        """
        if words.dtype != np.int64 or words.shape != (self.shape.words,) or not words.flags.c_contiguous:
            raise CudaLaunchError(f"words of {words.dtype} {words.shape}; expected {self.shape.words} contiguous int64")
        if not 0 <= blocks <= source.MOST_INDEX:
            raise CudaLaunchError(f"{blocks} blocks; expected 0 to 2^31 - 1")
        shared = self._shared.ctypes.data + -self._shared.ctypes.data % 128
        with _lock:
            if self._watch is not None:
                self._watch.tell(words, Array(shared, self.shape.shared, name="dynamic shared memory"), memory)
            said = self._function(words.ctypes.data, blocks, backwards, _stacks()[1], shared, self.shape.shared)
        if said:
            message = said.decode() if self._watch is None else self._watch.explained(said.decode())
            raise CudaLaunchError(f"{message}\n{self.text}")
