"""The names that kernel texts may use. Imports numba: only the compiler of kernels imports this file.

A kernel text is executed in the namespace `prelude(text)`, which holds just the names that it mentions:

    param(p, i)                    entry i of the parameter table
    ld_T(addr, i)  st_T(addr, i, v)   element i of an array of dtype T (every dtype of the IR but strings and complex)
    get_T(addr, i)  put_T(addr, i, v)  the same for streams: what `get` reads is never written by a `put` before, so that LLVM
                                   needs no alias checks (an element may be overwritten after it was read: in-place kernels)
    ldv_T(addr, i)  stv_T(addr, i, v)  LANES consecutive elements as a vector
    ldm_T(addr, i, n)  stm_T(addr, i, n, v)  the first n of them alone (n may be LANES or more; the other lanes load as 0)
    LANES                          elements of a vector, from the host's registers and f32
    splat(x)  lane(v, i)  hsum(v) hprod(v) hmin(v) hmax(v)   a vector of equal elements, one element, folds in a fixed order
    head(v, n, x)                  v with x in all lanes from the n-th on
    add sub mul div floordiv mod fmod minimum maximum square pow_ fma ...  arithmetic on equal types, without promotion
    lt le gt ge eq ne isnan isinf and_ or_ xor_ not_ where      tests and logic
    to_T(x)                        conversion; T = f16, bf16, f8...: an f32 rounded to that type
    bits_S_T(x)                    the bits of a value of dtype S as dtype T
    exp log log1p expm1 erf tanh sqrt sin cos ...   functions of f32 and f64 (softmax_exp: exp of what is not above 0)
    memcpy(dst, src, nbytes)  memset(dst, byte, nbytes)  alloc(nbytes)   (alloc: constant size, on the stack, 64-byte aligned)
    f32 f64 i64 ... (numba's types: f32(0.5) is a constant), inf, nan, function (a decorator for a text's own subroutines)

All take scalars and vectors; a scalar that meets a vector is spread. Plain `+ - *` and comparisons work on scalars with numba's
rules. Floats of up to 16 bits are f32 in registers, 2- and 4-bit integers i8 and u8.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.errors import TypingError
from numba.extending import intrinsic, register_model

from . import emit
from .emit import Ty, Val
from .polynomials import LIBM, function, softmax_exp

SMALL = frozenset({*emit.SMALL_FLOATS, "f8e8m0"})
REGISTERS: dict[str, Any] = {
    "f32": types.float32, "f64": types.float64, "i8": types.int8, "i16": types.int16, "i32": types.int32, "i64": types.int64,
    "u8": types.uint8, "u16": types.uint16, "u32": types.uint32, "u64": types.uint64, "bool": types.boolean,
    "f16": types.float32, "bf16": types.float32, "i4": types.int8, "i2": types.int8, "u4": types.uint8, "u2": types.uint8,
} | dict.fromkeys(SMALL, types.float32)  # fmt: skip
MEMORY_BITS = {"bool": 8, "f16": 16, "bf16": 16, "i4": 8, "i2": 8, "u4": 8, "u2": 8} | dict.fromkeys(SMALL, 8)
NARROW = {"i4": 4, "i2": 2, "u4": 4, "u2": 2}
_I64, _I32, _PTR = ir.IntType(64), ir.IntType(32), ir.PointerType()


def host_features() -> frozenset[str]:
    """The CPU features to compile for: the host's, unless numba is told others."""
    listed = os.environ.get("NUMBA_CPU_FEATURES") or llvm.get_host_cpu_features().flatten()
    return frozenset(f[1:] for f in listed.split(",") if f.startswith("+"))


def host_lanes() -> int:
    """f32 elements of the host's widest vector register that is worth using."""
    features = host_features()
    return 16 if {"avx512f", "avx512vl"} <= features else 8 if "avx2" in features else 4


LANES = host_lanes()
HALF = "f16c" in host_features()  # conversion instructions for f16


class Vec(types.Type):
    """numba's type of LANES elements."""

    def __init__(self, elem: types.Type):
        self.elem = elem
        super().__init__(name=f"Vec({elem})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec):
        super().__init__(dmm, fe_type, ty_of(fe_type).llvm)


def ty_of(t: Any) -> Ty:
    """The emitter's type of a numba type. Raises TypingError for one that kernels do not use."""
    if isinstance(t, Vec):
        return ty_of(t.elem).of_lanes(LANES)
    if isinstance(t, types.Boolean):
        return Ty("u", 1)
    if isinstance(t, types.Integer):
        return Ty("i" if t.signed else "u", t.bitwidth)
    if isinstance(t, types.Float):
        return Ty("f", t.bitwidth)
    raise TypingError(f"a kernel cannot compute with {t}; expected a number or a vector")


def shaped(elem: types.Type, like: tuple) -> types.Type:
    """`elem`, as a vector if one of the types is."""
    return Vec(elem) if any(isinstance(t, Vec) for t in like) else elem


def elem_of(t: Any) -> types.Type:
    return t.elem if isinstance(t, Vec) else t


def make(arity: int, result: Callable[..., Any], code: Callable[..., Any]) -> Any:
    """A numba intrinsic: `result(*types)` gives its type (and checks), `code(*Vals)` its value (a Val, or None)."""

    def generate(sig: Any) -> Callable:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            out = code(*(Val(builder, v, ty_of(t)) for v, t in zip(args, sig.args, strict=True)))
            return context.get_dummy_value() if out is None else out.v

        return codegen

    def typed(*args: Any) -> Any:
        sig = result(*args)
        if not isinstance(sig, tuple):
            sig = sig, args
        sig = sig[0](*sig[1])
        return sig, generate(sig)

    return {
        1: lambda: intrinsic(lambda tc, a: typed(a)),
        2: lambda: intrinsic(lambda tc, a, b: typed(a, b)),
        3: lambda: intrinsic(lambda tc, a, b, c: typed(a, b, c)),
        4: lambda: intrinsic(lambda tc, a, b, c, d: typed(a, b, c, d)),
    }[arity]()


def same(*args: Any) -> types.Type:
    """The result type of arithmetic: that of the operands, which must agree."""
    elems = {elem_of(t) for t in args}
    if len(elems) != 1:
        raise TypingError(f"operands of types {', '.join(map(str, args))}; expected one element type: convert with to_<dtype>")
    return shaped(elems.pop(), args)


def _test(*args: Any) -> types.Type:
    same(*args)
    return shaped(types.boolean, args)


def _where(c: Any, a: Any, b: Any) -> types.Type:
    same(a, b)
    return shaped(elem_of(a), (c, a, b))


# ---- memory -----------------------------------------------------------------------------------------------------


def _pointer(base: Val, index: Val, elem: ir.Type) -> Any:
    b = base.b
    return b.gep(b.inttoptr(base.v, _PTR), [index.v], source_etype=elem)


def _stream(instruction: Any, b: ir.IRBuilder, kind: str) -> None:
    """Tells LLVM that `get` and `put` never touch the same element, but the one just read (see the module's text)."""
    domain = b.module.add_metadata(["graphmill"])
    scope = b.module.add_metadata(["graphmill.put", domain])
    instruction.set_metadata("alias.scope" if kind == "put" else "noalias", b.module.add_metadata([scope]))


def memory_type(name: str, lanes: int) -> Ty:
    """How dtype `name` lies in memory."""
    t = ty_of(REGISTERS[name])
    return Ty("u" if name in MEMORY_BITS else t.kind, MEMORY_BITS.get(name, t.bits), lanes)


def load_code(kind: str, name: str) -> Callable[[Val, Val], Val]:
    lanes = LANES if kind == "ldv" else 0
    t = memory_type(name, lanes)

    def code(base: Val, index: Val) -> Val:
        b = base.b
        v = b.load(_pointer(base, index, t.elem), typ=t.llvm, align=t.bits // 8)
        if kind == "get":
            _stream(v, b, kind)
        return decode(Val(b, v, t), name)

    return code


def store_code(kind: str, name: str) -> Callable[[Val, Val, Val], None]:
    lanes = LANES if kind == "stv" else 0
    t = memory_type(name, lanes)

    def code(base: Val, index: Val, value: Val) -> None:
        b = base.b
        v = b.store(encode(value.spread(lanes), name).v, _pointer(base, index, t.elem), align=t.bits // 8)
        if kind == "put":
            _stream(v, b, kind)

    return code


def _mask(n: Val) -> Val:
    """True in the first n lanes."""
    ramp = Val(n.b, ir.Constant(ir.VectorType(_I64, LANES), list(range(LANES))), Ty("i", 64, LANES))
    return ramp.cmp("<", n)


def masked_load_code(name: str) -> Callable[[Val, Val, Val], Val]:
    t = memory_type(name, LANES)

    def code(base: Val, index: Val, n: Val) -> Val:
        mask, zero = _mask(n).v, Val(base.b, None, t).lift(0).v
        args = [_pointer(base, index, t.elem), ir.Constant(_I32, t.bits // 8), mask, zero]
        fn = emit.declare(base.b, f"llvm.masked.load.{t.suffix}.p0", t.llvm, [a.type for a in args])
        return decode(Val(base.b, base.b.call(fn, args), t), name)

    return code


def masked_store_code(name: str) -> Callable[[Val, Val, Val, Val], None]:
    t = memory_type(name, LANES)

    def code(base: Val, index: Val, n: Val, value: Val) -> None:
        raw = encode(value.spread(LANES), name).v
        args = [raw, _pointer(base, index, t.elem), ir.Constant(_I32, t.bits // 8), _mask(n).v]
        fn = emit.declare(base.b, f"llvm.masked.store.{t.suffix}.p0", ir.VoidType(), [a.type for a in args])
        base.b.call(fn, args)

    return code


def decode(x: Val, name: str) -> Val:
    """The register form of what lies in memory."""
    if name == "bool":
        return x.cmp("!=", 0)
    if name == "f16":
        return emit.half_to_f32(x, HALF)
    if name == "bf16":
        return emit.bf16_to_f32(x)
    if name in SMALL:
        return emit.small_to_f32(x, name)
    return wrap(emit.convert(x, "i" if name[0] == "i" else "u", 8), name) if name in NARROW else x


def encode(x: Val, name: str) -> Val:
    """The memory form of a register."""
    if name == "bool":
        return emit.convert(x, "u", 8)
    if name == "f16":
        return emit.f32_to_half(x, HALF)
    if name == "bf16":
        return emit.f32_to_bf16(x)
    if name in SMALL:
        return emit.f32_to_small(x, name)
    return emit.convert(x, "u", 8) & ((1 << NARROW[name]) - 1) if name in NARROW else x


def wrap(x: Val, name: str) -> Val:
    """An i8 or u8 as the narrower integer that its low bits are."""
    gap = 8 - NARROW[name]
    return (x << gap) >> gap


def convert_code(name: str) -> Callable[[Val], Val]:
    def code(x: Val) -> Val:
        if name in ("f16", "bf16") or name in SMALL:
            f = emit.to_odd(x) if (x.t.kind, x.t.bits, name) == ("f", 64, "f16") else emit.convert(x, "f", 32)
            return decode(encode(f, name), name)
        t = ty_of(REGISTERS[name])
        y = emit.convert(x, t.kind, t.bits)
        return wrap(y, name) if name in NARROW else y

    return code


def _memory(kind: str, name: str) -> Any:
    elem, i64 = REGISTERS[name], types.int64
    if kind in ("ld", "ldv", "get"):
        result = Vec(elem) if kind == "ldv" else elem
        return make(2, lambda a, i: (result, (i64, i64)), load_code(kind, name))
    if kind == "ldm":
        return make(3, lambda a, i, n: (Vec(elem), (i64, i64, i64)), masked_load_code(name))
    if kind == "stm":
        return make(4, lambda a, i, n, v: (types.void, (i64, i64, i64, shaped(elem, (v,)))), masked_store_code(name))
    return make(3, lambda a, i, v: (types.void, (i64, i64, shaped(elem, (v,)))), store_code(kind, name))


def _memory_call(name: str) -> Any:
    def code(a: Val, b: Val, n: Val) -> None:
        builder = a.b
        second = builder.inttoptr(b.v, _PTR) if name == "memcpy" else builder.trunc(b.v, _I32)
        kind = [_PTR, second.type, _I64]
        builder.call(emit.declare(builder, name, _PTR, kind), [builder.inttoptr(a.v, _PTR), second, n.v])

    return make(3, lambda *a: (types.void, (types.int64,) * 3), code)


def _alloc() -> Any:
    @intrinsic(prefer_literal=True)
    def alloc(tc: Any, nbytes: Any) -> Any:
        if not isinstance(nbytes, types.IntegerLiteral):
            raise TypingError("alloc takes a constant size")
        size = nbytes.literal_value

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
            with builder.goto_entry_block():
                slot = builder.alloca(ir.ArrayType(ir.IntType(8), size))
                slot.align = 64
            return builder.ptrtoint(slot, _I64)

        return types.int64(nbytes), codegen

    return alloc


# ---- vectors ----------------------------------------------------------------------------------------------------


def _splat_type(x: Any) -> types.Type:
    return Vec(elem_of(x))


def _lane(v: Val, i: Val) -> Val:
    return Val(v.b, v.b.extract_element(v.v, i.v), v.t.of_lanes(0))


def _fold(combine: Callable[[Val, Val], Val]) -> Callable[[Val], Val]:
    """Halves folded onto each other: ((0+4)+(2+6)) + ((1+5)+(3+7)) for eight lanes."""

    def code(v: Val) -> Val:
        n = v.t.lanes
        while n > 1:
            n //= 2
            picks = [ir.Constant(ir.VectorType(_I32, n), [k + o for k in range(n)]) for o in (0, n)]
            low, high = (Val(v.b, v.b.shuffle_vector(v.v, v.v, p), v.t.of_lanes(n)) for p in picks)
            v = combine(low, high)
        return _lane(v, Val(v.b, ir.Constant(_I64, 0), Ty("i", 64)))

    return code


def _head(v: Val, n: Val, x: Val) -> Val:
    return _mask(n).pick(v.spread(LANES), x)


def _head_type(v: Any, n: Any, x: Any) -> Any:
    same(v, x)
    return Vec(elem_of(v)), (v, types.int64, x)


FOLDS = {"hsum": "add", "hprod": "mul", "hmin": "minimum", "hmax": "maximum", "hor": "bitor", "hand": "bitand"}


# ---- the namespace ----------------------------------------------------------------------------------------------


def _param() -> Any:
    return make(2, lambda p, i: (types.int64, (types.int64, types.int64)), load_code("ld", "i64"))


def _function(fn: Callable) -> Any:
    return numba.njit(fn, error_model="numpy", nogil=True, boundscheck=False, fastmath={"contract"})


def _ipow() -> Any:
    @_function
    def ipow(a: int, b: int) -> int:
        """a to the power of b, wrapping, by squaring; a negative power of anything but 1 and -1 is 0."""
        if b < 0:
            return a if a == 1 or (a == -1 and b % 2 != 0) else 1 if a == -1 else 0
        out = 1
        while b:
            if b & 1:
                out *= a
            a *= a
            b >>= 1
        return out

    return ipow


def bits_code(source: str, to: str) -> Callable[[Val], Val]:
    """The bits of a value of one dtype read as another of the same width."""

    def code(x: Val) -> Val:
        raw, t = encode(x, source), memory_type(to, x.t.lanes)
        return decode(raw.bits_as("u").bits_as(t.kind), to)

    return code


MAKERS: dict[str, Callable[[], Any]] = {
    "param": _param,
    "alloc": _alloc,
    "memcpy": lambda: _memory_call("memcpy"),
    "memset": lambda: _memory_call("memset"),
    "ipow": _ipow,
    "LANES": lambda: LANES,
    "inf": lambda: math.inf,
    "nan": lambda: math.nan,
    "function": lambda: _function,
    "splat": lambda: make(1, _splat_type, lambda x: x.spread(LANES)),
    "lane": lambda: make(2, lambda v, i: (v.elem, (v, types.int64)), _lane),
    "head": lambda: make(3, _head_type, _head),
    "where": lambda: make(3, _where, emit.BASIC["where"]),
    "and_": lambda: make(2, _test, emit.BASIC["bitand"]),
    "or_": lambda: make(2, _test, emit.BASIC["bitor"]),
    "xor_": lambda: make(2, _test, emit.BASIC["bitxor"]),
    "not_": lambda: make(1, _test, emit.BASIC["bitnot"]),
    "softmax_exp": lambda: make(1, same, softmax_exp),
    "pow_": lambda: make(2, same, lambda a, b: a.libm("pow", b)),
    "atan2": lambda: make(2, same, lambda a, b: a.libm("atan2", b)),
}
# Names that other files of this folder provide.
ELSEWHERE = {
    "microkernel": "gemm_panel window_tile",
    "combine": "combine",
    "shuffle": "transpose_u8 transpose_u16 transpose_u32 transpose_u64",
    "atomics": "atomic_load atomic_store atomic_add atomic_swap_if call_kernel nanoseconds pause give_way sleep_while wake_all",
}
_FILES = {name: file for file, names in ELSEWHERE.items() for name in names.split()}
_MADE: dict[str, Any] = {}
_ONE = ("neg", "bitnot", "absolute", "sign", "floor", "ceil", "trunc", "rint", "isnan", "isinf", "square")
_ARITY = {"where": 3, "fma": 3} | dict.fromkeys(_ONE, 1)
_TYPED = re.compile(r"(ld|st|ldv|stv|ldm|stm|get|put|to)_([a-z0-9]+)|bits_([a-z0-9]+)_([a-z0-9]+)")


def lookup(name: str) -> Any:
    """What `name` stands for in kernel texts, None if it is no name of the prelude."""
    if name not in _MADE:
        _MADE[name] = _make(name)
    return _MADE[name]


def _make(name: str) -> Any:
    if name in MAKERS:
        return MAKERS[name]()
    if name in _FILES:
        return getattr(importlib.import_module(f".{_FILES[name]}", __package__), name)
    if name in REGISTERS:
        return REGISTERS[name]
    if name in emit.BASIC:
        return make(_ARITY.get(name, 2), same, emit.BASIC[name])
    if name in emit.TESTS:
        return make(_ARITY.get(name, 2), _test, emit.TESTS[name])
    if name in FOLDS:
        return make(1, elem_of, _fold(emit.BASIC[FOLDS[name]]))
    if name in LIBM or name == "sqrt":
        return make(1, same, function(name))
    m = _TYPED.fullmatch(name)
    if m is None or not all(g in REGISTERS for g in m.groups()[1:] if g):
        return None
    if m[1] is None:
        return make(1, lambda x: shaped(REGISTERS[m[4]], (x,)), bits_code(m[3], m[4]))
    if m[1] == "to":
        return make(1, lambda x: shaped(REGISTERS[m[2]], (x,)), convert_code(m[2]))
    return _memory(m[1], m[2])


def prelude(text: str) -> dict[str, Any]:
    """The namespace in which a kernel text is executed: the names of this file that it mentions."""
    found = {name: lookup(name) for name in sorted(set(re.findall(r"[A-Za-z_]\w*", text)))}
    return {name: x for name, x in found.items() if x is not None}
