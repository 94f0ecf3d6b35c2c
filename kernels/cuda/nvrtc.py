"""CUDA C++ to machine code by nvrtc, which needs neither a GPU nor a driver nor CUDA's headers.

Programs are compiled as C++17 with strict floats: denormals are kept, division and square root are correctly rounded, `a * b + c`
may become one fma. Cubins are kept in graphmill's cache (kernels/cpu/cache.py) by program, architecture, options and the
library's version.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import glob
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ...ir.errors import GraphmillError
from ..cpu.cache import read_cached, write_cached

OPTIONS = ("-std=c++17", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-fmad=true", "-default-device", "--ptxas-options=-v")


class CudaCompileError(GraphmillError):
    """nvrtc refuses a program; the message is its log."""


class CudaUnavailable(GraphmillError):
    """A part of CUDA that is needed is not installed; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a kernel takes: registers a thread, bytes spilled, bytes of static shared memory a block, of stack a thread."""

    registers: int
    spill_stores: int
    spill_loads: int
    shared: int
    stack: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program's machine code for one architecture, and what each of its kernels takes."""

    cubin: bytes
    kernels: dict[str, Usage]


# ---- the library ------------------------------------------------------------------------------------------------


def _wheel_folders(part: str) -> Iterator[str]:
    """Where NVIDIA's wheels put their libraries, which CuPy's wheels use too: all of CUDA 13 in one place, before that each `part`
    of CUDA in one of its own."""
    found = importlib.util.find_spec("nvidia")
    for root in (found.submodule_search_locations or ()) if found else ():
        yield from sorted(glob.glob(os.path.join(root, "cu[0-9]*", "lib")), reverse=True)
        yield os.path.join(root, part, "lib")


def _system_folders() -> Iterator[str]:
    for root in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), os.environ.get("CONDA_PREFIX"), "/usr/local/cuda"):
        if root:
            yield from (os.path.join(root, "lib64"), os.path.join(root, "lib"))


def _cupy_major() -> str:
    """The major version of CUDA that the installed CuPy is made for, "" where none says so."""
    for d in importlib.metadata.distributions():
        found = re.fullmatch(r"cupy-cuda(\d+)x", d.metadata["Name"] or "")
        if found:
            return found[1]
    return ""


def candidates(name: str = "nvrtc", part: str = "cuda_nvrtc") -> list[str]:
    """The libraries of this name on this machine, best first: of CuPy's version of CUDA before others, of the wheels before the
    system's."""
    folders = (*_wheel_folders(part), *_system_folders())
    found = [p for folder in folders for p in glob.glob(os.path.join(folder, f"lib{name}.so.*"))]
    by_version = [p for p in found if re.search(r"\.so\.\d+$", p)]
    cupy = _cupy_major()
    by_version.sort(key=lambda p: bool(cupy) and not p.endswith(f".{cupy}"))
    system = ctypes.util.find_library(name)
    return by_version + ([system] if system else [])


@functools.cache
def library() -> ctypes.CDLL:
    """nvrtc, loaded. Raises CudaUnavailable."""
    said = []
    for path in candidates():
        try:
            for part in glob.glob(os.path.join(os.path.dirname(path), "libnvrtc-builtins.so.*[0-9]")):
                ctypes.CDLL(part)  # which nvrtc opens by its name alone: from a wheel it would not be found
            return ctypes.CDLL(path)
        except OSError as e:
            said.append(f" ({e})")
    raise CudaUnavailable("CUDA kernels are compiled by nvrtc, which is not here: expected libnvrtc.so in a wheel, CUDA_PATH or "
                          "/usr/local/cuda; try `pip install nvidia-cuda-nvrtc` (CUDA 13) or `nvidia-cuda-nvrtc-cu12`"
                          + "".join(said))  # fmt: skip


@functools.cache
def version() -> tuple[int, int]:
    """nvrtc's version, (13, 0) for instance. Raises CudaUnavailable."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return major.value, minor.value


def architectures() -> list[int]:
    """The compute capabilities that nvrtc compiles for: 80, 90, ... Raises CudaUnavailable."""
    n = ctypes.c_int()
    _check(library().nvrtcGetNumSupportedArchs(ctypes.byref(n)), "nvrtcGetNumSupportedArchs")
    found = (ctypes.c_int * n.value)()
    _check(library().nvrtcGetSupportedArchs(found), "nvrtcGetSupportedArchs")
    return list(found)


def _check(code: int, call: str) -> None:
    if code:
        text = library().nvrtcGetErrorString
        text.restype = ctypes.c_char_p
        raise CudaCompileError(f"{call}: {text(code).decode()}")


# ---- compiling --------------------------------------------------------------------------------------------------


def about(source: str, arch: str) -> dict[str, str]:
    """What a program's cubin depends on, named as what a CPU's kernels are made of. Raises CudaUnavailable."""
    return {"text": hashlib.sha256(source.encode()).hexdigest(), "cpu": arch, "features": ",".join(OPTIONS),
            "nvrtc": "{}.{}".format(*version())}  # fmt: skip


def key_of(made_of: dict[str, str]) -> str:
    """The hash under which a cubin is kept."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def compile_program(source: str, arch: str) -> Compiled:
    """The cubin of a program (source.program) for an architecture such as "sm_90", from the cache or compiled and stored.

    Raises CudaCompileError with nvrtc's log where the program is at fault, CudaUnavailable without nvrtc.
    """
    made_of = about(source, arch)
    key = key_of(made_of)
    data = read_cached(key)
    if data is None:
        cubin, log = _compile(source, arch)
        head = json.dumps({name: asdict(u) for name, u in usages(log).items()}).encode()
        data = len(head).to_bytes(4, "little") + head + cubin
        write_cached(key, data, made_of)
    n = 4 + int.from_bytes(data[:4], "little")
    return Compiled(data[n:], {name: Usage(**u) for name, u in json.loads(data[4:n]).items()})


def _compile(source: str, arch: str) -> tuple[bytes, str]:
    """The cubin and the log of ptxas."""
    rtc, handle = library(), ctypes.c_void_p()
    options = [o.encode() for o in (*OPTIONS, f"-arch={arch}")]
    _check(rtc.nvrtcCreateProgram(ctypes.byref(handle), source.encode(), b"program.cu", 0, None, None), "nvrtcCreateProgram")
    try:
        code = rtc.nvrtcCompileProgram(handle, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _bytes(rtc, "ProgramLog", handle).rstrip(b"\0").decode(errors="replace")
        if code:
            raise CudaCompileError(f"a CUDA program does not compile for {arch}:\n{log}")
        return _bytes(rtc, "CUBIN", handle), log
    finally:
        rtc.nvrtcDestroyProgram(ctypes.byref(handle))


def _bytes(rtc: ctypes.CDLL, what: str, handle: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(rtc, f"nvrtcGet{what}Size")(handle, ctypes.byref(size)), f"nvrtcGet{what}Size")
    data = ctypes.create_string_buffer(size.value)
    _check(getattr(rtc, f"nvrtcGet{what}")(handle, data), f"nvrtcGet{what}")
    return data.raw


# ---- the log ----------------------------------------------------------------------------------------------------

_USAGE = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<spill_stores>\d+) bytes spill stores, "
    r"(?P<spill_loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)


def usages(log: str) -> dict[str, Usage]:
    """What ptxas says of each kernel."""
    out = {}
    for m in _USAGE.finditer(log):
        shared = re.search(r"(\d+) bytes smem", m["rest"])
        out[m["name"]] = Usage(int(m["registers"]), int(m["spill_stores"]), int(m["spill_loads"]), int(shared[1]) if shared else 0,
                               int(m["stack"]))  # fmt: skip
    return out
