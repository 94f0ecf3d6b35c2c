"""Kernel texts to machine code: compiled once (language.py, then LLVM), kept as object files, loaded.

An object has one exported symbol, refers to nothing but the C library (checked before it is stored and again before it is
loaded), and is found by the hash of all that it depends on: text, generator, version of llvmlite, and the host's CPU.

Objects are kept in a folder (`cache.py`) and made anew when damaged. A folder that cannot be written costs compiling in each
process, nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ...ir.errors import GraphmillError
from ...ir.locks import ForkGuard
from ..spec import KernelSource
from .cache import explain_misses, read_cached, writable, write_cached
from .tiling import vector_bits

# What machine code depends on beside the text.
EMITTERS = ("arithmetic.py", "atomics.py", "combine.py", "conversions.py", "emit.py", "emitter.py", "language.py",
            "microkernel.py", "objects.py", "polynomials.py", "program.py", "quant_panels.py", "shuffle.py", "tiling.py",
            "values.py", "vector.py", "windows.py")  # fmt: skip
_LIBM = """exp expm1 log log1p erf tanh sin cos tan asin acos atan sinh cosh asinh acosh atanh pow fmod atan2 exp2 log2 exp10 log10
sqrt cbrt floor ceil trunc rint round nearbyint ldexp fma sincos erfc hypot fabs"""
_LIBC = "memcpy memset memmove memcmp bzero clock_gettime sched_yield syscall"
ALLOWED = frozenset([n + s for n in _LIBM.split() for s in ("", "f")] + _LIBC.split())


def _llvm_lock() -> AbstractContextManager[Any]:
    """The lock that llvmlite takes for each call of LLVM, where it has one: others may use it beside us."""
    ffi = sys.modules.get("llvmlite.binding.ffi")
    lock = getattr(getattr(ffi, "lib", None), "_lock", None)
    return lock if hasattr(lock, "__enter__") else nullcontext()


_lock = ForkGuard(_llvm_lock)  # whoever calls llvmlite holds it
_addresses: dict[str, int] = {}
_compiled = 0


class KernelCompileError(GraphmillError):
    """A kernel text does not compile, or its object refers to something that is not there at run time."""


def compiled_count() -> int:
    """How many kernels this process compiled (or had compiled by its workers): what "no compilation" is asserted on."""
    return _compiled


# ---- identity ---------------------------------------------------------------------------------------------------


@functools.cache
def _environment() -> str:
    """`environment` as text, found out once."""
    here = Path(__file__).parent
    with _lock:
        import llvmlite.binding as llvm

        found = {
            "code": hashlib.sha256(b"".join((here / name).read_bytes() for name in EMITTERS)).hexdigest(),
            "cpu": os.environ.get("GRAPHMILL_CPU") or llvm.get_host_cpu_name(),
            "features": os.environ.get("GRAPHMILL_CPU_FEATURES") or llvm.get_host_cpu_features().flatten(),
            "platform": f"{sys.platform} {platform.machine()}",
            "vector_bits": str(vector_bits()),
        }
    return json.dumps(found | {"llvmlite": _version("llvmlite")}, sort_keys=True)


def environment() -> dict[str, str]:
    """All but the text that an object depends on, by what it is."""
    found: dict[str, str] = json.loads(_environment())
    return found


def _version(name: str) -> str:
    """The version of a package; where it is not installed, objects that others compiled can still be loaded."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def about(text: str) -> dict[str, str]:
    """What a kernel's key is made of, as it is kept with its object."""
    return {"text": text_hash(text)} | environment()


def object_key(text: str) -> str:
    """The hash under which the object of a kernel text is kept."""
    return hashlib.sha256(f"{_environment()}\n{text}".encode()).hexdigest()


def symbol_name(key: str) -> str:
    return f"gm_{key[:16]}"


# ---- compiling --------------------------------------------------------------------------------------------------


def compile_kernel(text: str) -> bytes:
    """The object file of a kernel text, compiled now. Raises KernelCompileError."""
    global _compiled
    with _lock:
        data = _emitted(text)
        check_object(data)
        _compiled += 1
    return data


def _emitted(text: str) -> bytes:
    module, machine = _module(text, symbol_name(object_key(text)))
    return machine.emit_object(module)


def kernel_assembly(text: str) -> str:
    """The assembly of a kernel, for tests and people."""
    with _lock:
        module, machine = _module(text, "kernel")
        return machine.emit_assembly(module)


def _module(text: str, entry: str) -> tuple[Any, Any]:
    """The optimised LLVM module of a kernel, its only visible function named `entry`, and the target machine."""
    import llvmlite.binding as llvm

    from .language import compile_text
    from .values import KernelTypeError
    from .vector import prelude

    machine = _machine()
    try:
        code = compile_text(text, prelude(text), entry)
        code.triple, code.data_layout = machine.triple, str(machine.target_data)
        module = llvm.parse_assembly(str(code))
        module.verify()
    except (KernelTypeError, SyntaxError, RuntimeError) as e:  # RuntimeError: LLVM's word on an intrinsic that emits nonsense
        raise KernelCompileError(f"a kernel does not compile: {e}\n{text}") from e
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization, options.slp_vectorization = True, False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module, machine


@functools.cache
def _machine() -> Any:
    """The target machine that kernels are compiled for: this host, unless the environment says another."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    about = json.loads(_environment())
    reloc = "static" if target.name.startswith("x86") else "default"
    return target.create_target_machine(
        cpu=about["cpu"], features=about["features"], opt=3, reloc=reloc, codemodel="jitdefault", jit=True
    )


def undefined_symbols(data: bytes) -> set[str]:
    """The names that an object file leaves open."""
    if data[:4] == b"\x7fELF":
        return _elf_undefined(data)
    raise KernelCompileError(f"an object file of an unknown format (it starts with {data[:4]!r}); expected ELF, as on Linux; "
                             'elsewhere compile with target="reference"')  # fmt: skip


def _elf_undefined(data: bytes) -> set[str]:
    """Undefined entries of a little-endian ELF64's symbol table (System V ABI, chapter 4)."""

    def at(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    first, size, count = at(0x28, 8), at(0x3A, 2), at(0x3C, 2)
    sections = [first + i * size for i in range(count)]
    names = set()
    for s in sections:
        if at(s + 4, 4) != 2:  # SHT_SYMTAB
            continue
        table, length, strings = at(s + 0x18, 8), at(s + 0x20, 8), at(sections[at(s + 0x28, 4)] + 0x18, 8)
        for entry in range(table + 24, table + length, 24):
            if at(entry + 6, 2) == 0:  # SHN_UNDEF
                start = strings + at(entry, 4)
                names.add(data[start : data.index(b"\0", start)].decode())
    return names - {""}


def check_object(data: bytes) -> None:
    """Raises KernelCompileError if an object refers to anything but functions of the C library."""
    strange = sorted(undefined_symbols(data) - ALLOWED - {"_GLOBAL_OFFSET_TABLE_"})
    if strange:
        raise KernelCompileError(f"a kernel's object needs {', '.join(strange)}, which only the C library may provide; "
                                 "expected raw pointers and the names of kernels/cpu/vector.py only")  # fmt: skip


# ---- loading ----------------------------------------------------------------------------------------------------


def kernel_object(text: str) -> bytes:
    """The object of a kernel text, from the cache or compiled and stored."""
    key = object_key(text)
    data = read_cached(key)
    if data is None:
        data = compile_kernel(text)
        write_cached(key, data, about(text))
    return data


@functools.cache
def _engine() -> Any:
    """The process's execution engine. It is never freed: addresses of kernels stay good for the process's life."""
    import ctypes.util

    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in ("m", "c"):
        path = ctypes.util.find_library(name)
        if path:
            llvm.load_library_permanently(path)
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def load(data: bytes, symbol: str) -> int:
    """The address of the function `symbol` of an object, loaded into this process for good."""
    check_object(data)
    with _lock:
        import llvmlite.binding as llvm

        engine = _engine()
        engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        engine.finalize_object()
        address = engine.get_function_address(symbol)
    if not address:
        raise KernelCompileError(f"an object file has no function {symbol}")
    return address


def kernel_address(source: KernelSource | str) -> int:
    """The address of the function `void(params, tile, ntiles)` of a kernel."""
    text = source if isinstance(source, str) else source.text
    key = object_key(text)
    with _lock:
        if key not in _addresses:
            _addresses[key] = load(kernel_object(text), symbol_name(key))
        return _addresses[key]


def adopt(text: str, data: bytes, symbol: str) -> None:
    """Takes an object that the caller trusts as that of a kernel text. Raises KernelCompileError."""
    with _lock:
        _addresses[object_key(text)] = load(data, symbol)


def is_loaded(text: str) -> bool:
    return object_key(text) in _addresses


# ---- many at once -----------------------------------------------------------------------------------------------

PARALLEL_FROM = 4  # a worker costs about a second to start


def compile_many(texts: Iterable[str], jobs: int = 1) -> list[str]:
    """Sees to it that the object of every text is loaded or in the cache, compiling what is missing in up to `jobs` processes;
    why each of these was missing. Raises KernelCompileError with what a worker said."""
    missing = [t for t in dict.fromkeys(texts) if not is_loaded(t) and read_cached(object_key(t)) is None]
    reasons = explain_misses([(object_key(t), about(t)) for t in missing]) if missing else []
    jobs = min(jobs, len(missing) // (PARALLEL_FROM // 2))
    if len(missing) >= PARALLEL_FROM and jobs > 1 and writable():
        _in_workers(missing, jobs)
        missing = [t for t in missing if read_cached(object_key(t)) is None]
    for text in missing:
        kernel_address(text)  # kept loaded: the folder may not be writable
    return reasons


def _in_workers(texts: Sequence[str], jobs: int) -> None:
    global _compiled
    command = [sys.executable, "-m", __package__ + ".worker"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    running = []
    for i in range(jobs):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        running.append((process, list(texts[i::jobs])))
    for process, share in running:
        assert process.stdin is not None
        process.stdin.write(json.dumps(share))
        process.stdin.close()
        process.stdin = None
    for process, share in running:
        out = process.communicate()[0]
        if process.returncode == 0 and out.strip() == "done":
            with _lock:
                _compiled += len(share)
