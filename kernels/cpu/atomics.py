"""What the executor's own texts use beside the names of `vector.py`: atomics, time, calls of kernels, sleeping.

atomic_load(addr)  atomic_store(addr, v)  atomic_add(addr, v)  atomic_swap_if(addr, old, new)   of 64-bit words
call_kernel(address, params, tile, ntiles)    a call through an address
nanoseconds()                                 of the monotonic clock
pause()  give_way()                           in a spinning loop: a hint to the core; the rest of the time slice to others
see_new_code()                                from here on, instructions run that another core had written before
sleep_while(addr, v)  wake_all(addr)          futex: sleep as long as the low half of a word is v; wake who sleeps on it (nothing
                                              where `launch` finds no futex and starts no workers)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from .emit import Ty, Val
from .tiling import architecture
from .values import BOOL, I64, Intrinsic

_I32, _I64, _PTR = ir.IntType(32), ir.IntType(64), ir.PointerType()
_KERNEL = ir.FunctionType(ir.VoidType(), [_I64, _I64, _I64])
_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 1)
_WAIT, _WAKE, _ALL = 128, 129, 1 << 30  # FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE, more than there are threads
_FUTEX = {"x86_64": 202, "aarch64": 98}
# What a spinning core waits for: x86 some cycles, aarch64 its own pipeline (`yield` does nothing on most of them). The latter must
# also stand between another core's writing of code, which LLVM tells all cores of, and its running; x86 needs nothing.
_FLUSH = ("llvm.aarch64.isb", [_I32(15)])
_PAUSE = {"x86_64": ("llvm.x86.sse2.pause", []), "aarch64": _FLUSH}


def _integers(arity: int, build: Callable[..., Any], result: Ty | None = I64) -> Intrinsic:
    """An intrinsic over `arity` 64-bit integers."""

    def typed(*args: Ty) -> Sequence[Ty]:
        if len(args) != arity:
            raise TypeError(f"{len(args)} arguments, expected {arity}")
        return [I64] * arity

    def emit(b: ir.IRBuilder, values: list[Val]) -> Val | None:
        out = build(b, *(v.v for v in values))
        return None if result is None else Val(b, out, result)

    return Intrinsic(build.__name__, typed, emit)


def _external(b: ir.IRBuilder, name: str, t: ir.FunctionType) -> Any:
    return b.module.globals.get(name) or ir.Function(b.module, t, name)


def _word(b: ir.IRBuilder, address: Any) -> Any:
    return b.inttoptr(address, _PTR)


def _load(b: ir.IRBuilder, address: Any) -> Any:
    return b.load_atomic(_word(b, address), ordering="seq_cst", align=8, typ=_I64)


def _store(b: ir.IRBuilder, address: Any, v: Any) -> None:
    b.atomic_rmw("xchg", _word(b, address), v, ordering="seq_cst")  # llvmlite's store_atomic breaks on opaque pointers


def _add(b: ir.IRBuilder, address: Any, v: Any) -> Any:
    return b.atomic_rmw("add", _word(b, address), v, ordering="seq_cst")


def _swap_if(b: ir.IRBuilder, address: Any, old: Any, new: Any) -> Any:
    pair = b.cmpxchg(_word(b, address), old, new, "seq_cst", "seq_cst")
    return b.extract_value(pair, 1)


def _call(b: ir.IRBuilder, address: Any, params: Any, tile: Any, ntiles: Any) -> None:
    b.call(b.inttoptr(address, ir.PointerType(_KERNEL)), [params, tile, ntiles])


def _nanoseconds(b: ir.IRBuilder) -> Any:
    with b.goto_entry_block():
        spec = b.alloca(ir.ArrayType(_I64, 2))
    b.call(_external(b, "clock_gettime", ir.FunctionType(_I32, [_I32, _PTR])), [_I32(_MONOTONIC), spec])
    seconds = b.load(b.gep(spec, [_I64(0)], source_etype=_I64), typ=_I64)
    rest = b.load(b.gep(spec, [_I64(1)], source_etype=_I64), typ=_I64)
    return b.add(b.mul(seconds, _I64(1_000_000_000)), rest)


def _hint(b: ir.IRBuilder, name: str, args: list[Any]) -> None:
    b.call(_external(b, name, ir.FunctionType(ir.VoidType(), [a.type for a in args])), args)


def _pause(b: ir.IRBuilder) -> None:
    if architecture() in _PAUSE:
        _hint(b, *_PAUSE[architecture()])


def _see_new_code(b: ir.IRBuilder) -> None:
    if architecture() == "aarch64":
        _hint(b, *_FLUSH)


def _give_way(b: ir.IRBuilder) -> None:
    b.call(_external(b, "sched_yield", ir.FunctionType(_I32, [])), [])


def _futex(b: ir.IRBuilder, address: Any, operation: int, v: Any) -> None:
    number = _FUTEX.get(architecture()) if sys.platform == "linux" else None
    if number is None:
        return
    syscall = _external(b, "syscall", ir.FunctionType(_I64, [_I64], var_arg=True))
    b.call(syscall, [_I64(number), _word(b, address), _I64(operation), v, ir.Constant(_PTR, None)])


atomic_load = _integers(1, _load)
atomic_store = _integers(2, _store, None)
atomic_add = _integers(2, _add)
atomic_swap_if = _integers(3, _swap_if, BOOL)
call_kernel = _integers(4, _call, None)
nanoseconds = _integers(0, _nanoseconds)
pause = _integers(0, _pause, None)
give_way = _integers(0, _give_way, None)
see_new_code = _integers(0, _see_new_code, None)
sleep_while = _integers(2, lambda b, address, v: _futex(b, address, _WAIT, v), None)
wake_all = _integers(1, lambda b, address: _futex(b, address, _WAKE, _I64(_ALL)), None)
