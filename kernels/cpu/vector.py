"""The names that kernel texts (language.py) may use. Imports llvmlite: only the compiler of kernels imports this file.

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
    f32 f64 i64 ... (types: f32(0.5) is a constant), inf, nan, function (a decorator for a text's own subroutines)

All take scalars and vectors; a scalar that meets a vector is spread. Plain `+ - *` and comparisons work on scalars. Floats of up to
16 bits are f32 in registers, 2- and 4-bit integers i8 and u8.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from . import conversions, emit
from .arithmetic import BASIC, TESTS
from .emit import Ty, Val
from .language import subroutine
from .polynomials import LIBM, function, softmax_exp
from .tiling import converts_half, tiling
from .values import BOOL, I64, Intrinsic, KernelTypeError, Macro

SMALL = frozenset({*conversions.SMALL_FLOATS, "f8e8m0"})
REGISTERS: dict[str, Ty] = {
    "f32": Ty("f", 32), "f64": Ty("f", 64), "i8": Ty("i", 8), "i16": Ty("i", 16), "i32": Ty("i", 32), "i64": I64,
    "u8": Ty("u", 8), "u16": Ty("u", 16), "u32": Ty("u", 32), "u64": Ty("u", 64), "bool": BOOL,
    "f16": Ty("f", 32), "bf16": Ty("f", 32), "i4": Ty("i", 8), "i2": Ty("i", 8), "u4": Ty("u", 8), "u2": Ty("u", 8),
} | dict.fromkeys(SMALL, Ty("f", 32))  # fmt: skip
MEMORY_BITS = {"bool": 8, "f16": 16, "bf16": 16, "i4": 8, "i2": 8, "u4": 8, "u2": 8} | dict.fromkeys(SMALL, 8)
NARROW = {"i4": 4, "i2": 2, "u4": 4, "u2": 2}
_I64, _I32, _PTR = ir.IntType(64), ir.IntType(32), ir.PointerType()


LANES = tiling(4).lanes  # f32 elements of the widest vector register that is worth using
HALF = converts_half()


def shaped(elem: Ty, like: Sequence[Ty]) -> Ty:
    """`elem`, as a vector if one of the types is."""
    return elem.of_lanes(LANES if any(t.lanes for t in like) else 0)


def make(name: str, typed: Callable[..., Sequence[Ty]], code: Callable[..., Val | None]) -> Intrinsic:
    """An intrinsic: `typed(*types)` gives the types that its operands are converted to (and checks), `code(*Vals)` its value."""
    return Intrinsic(name, typed, lambda b, values: code(*values))


def same(*args: Ty) -> Sequence[Ty]:
    """The operands of arithmetic, whose element types must agree."""
    elems = {t.of_lanes(0) for t in args}
    if len(elems) != 1:
        raise KernelTypeError(f"operands of types {', '.join(map(str, args))}; expected one element type: convert with to_<dtype>")
    return args


def arithmetic(arity: int) -> Callable[..., Sequence[Ty]]:
    def typed(*args: Ty) -> Sequence[Ty]:
        if len(args) != arity:
            raise TypeError(f"{len(args)} operands, expected {arity}")
        return same(*args)

    return typed


def _where(c: Ty, a: Ty, b: Ty) -> Sequence[Ty]:
    same(a, b)
    return BOOL.of_lanes(c.lanes), a, b


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
    t = REGISTERS[name]
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
        return conversions.half_to_f32(x, HALF)
    if name == "bf16":
        return conversions.bf16_to_f32(x)
    if name in SMALL:
        return conversions.small_to_f32(x, name)
    return wrap(conversions.convert(x, "i" if name[0] == "i" else "u", 8), name) if name in NARROW else x


def encode(x: Val, name: str) -> Val:
    """The memory form of a register."""
    if name == "bool":
        return conversions.convert(x, "u", 8)
    if name == "f16":
        return conversions.f32_to_half(x, HALF)
    if name == "bf16":
        return conversions.f32_to_bf16(x)
    if name in SMALL:
        return conversions.f32_to_small(x, name)
    return conversions.convert(x, "u", 8) & ((1 << NARROW[name]) - 1) if name in NARROW else x


def wrap(x: Val, name: str) -> Val:
    """An i8 or u8 as the narrower integer that its low bits are."""
    gap = 8 - NARROW[name]
    return (x << gap) >> gap


def convert_code(name: str) -> Callable[[Val], Val]:
    def code(x: Val) -> Val:
        if name in ("f16", "bf16") or name in SMALL:
            f = conversions.to_odd(x) if (x.t.kind, x.t.bits, name) == ("f", 64, "f16") else conversions.convert(x, "f", 32)
            return decode(encode(f, name), name)
        t = REGISTERS[name]
        y = conversions.convert(x, t.kind, t.bits)
        return wrap(y, name) if name in NARROW else y

    return code


def _memory(kind: str, name: str) -> Intrinsic:
    elem, full = REGISTERS[name], f"{kind}_{name}"
    if kind in ("ld", "ldv", "get"):
        return make(full, lambda a, i: (I64, I64), load_code(kind, name))
    if kind == "ldm":
        return make(full, lambda a, i, n: (I64, I64, I64), masked_load_code(name))
    if kind == "stm":
        return make(full, lambda a, i, n, v: (I64, I64, I64, shaped(elem, (v,))), masked_store_code(name))
    return make(full, lambda a, i, v: (I64, I64, shaped(elem, (v,))), store_code(kind, name))


def _memory_call(name: str) -> Intrinsic:
    def code(a: Val, b: Val, n: Val) -> None:
        builder = a.b
        second = builder.inttoptr(b.v, _PTR) if name == "memcpy" else builder.trunc(b.v, _I32)
        kind = [_PTR, second.type, _I64]
        builder.call(emit.declare(builder, name, _PTR, kind), [builder.inttoptr(a.v, _PTR), second, n.v])

    return make(name, lambda a, b, n: (I64, I64, I64), code)


def _alloc(builder: ir.IRBuilder, nbytes: Any) -> Val:
    if not isinstance(nbytes, int):
        raise KernelTypeError("alloc takes a constant size")
    with builder.goto_entry_block():
        slot = builder.alloca(ir.ArrayType(ir.IntType(8), nbytes))
        slot.align = 64
    return Val(builder, builder.ptrtoint(slot, _I64), I64)


# ---- vectors ----------------------------------------------------------------------------------------------------


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


def _head_type(v: Ty, n: Ty, x: Ty) -> Sequence[Ty]:
    same(v, x)
    return v, I64, x


FOLDS = {"hsum": "add", "hprod": "mul", "hmin": "minimum", "hmax": "maximum", "hor": "bitor", "hand": "bitand"}


# ---- the namespace ----------------------------------------------------------------------------------------------


_IPOW = """
def ipow(a, b):
    if b < 0:
        return a if a == 1 or (a == -1 and b % 2 != 0) else 1 if a == -1 else 0
    out = 1
    while b != 0:
        if b & 1 != 0:
            out *= a
        a *= a
        b >>= 1
    return out
"""  # a to the power of b, wrapping, by squaring; a negative power of anything but 1 and -1 is 0


def bits_code(source: str, to: str) -> Callable[[Val], Val]:
    """The bits of a value of one dtype read as another of the same width."""

    def code(x: Val) -> Val:
        raw, t = encode(x, source), memory_type(to, x.t.lanes)
        return decode(raw.bits_as("u").bits_as(t.kind), to)

    return code


MAKERS: dict[str, Callable[[], Any]] = {
    "param": lambda: make("param", lambda p, i: (I64, I64), load_code("ld", "i64")),
    "alloc": lambda: Macro(_alloc),
    "memcpy": lambda: _memory_call("memcpy"),
    "memset": lambda: _memory_call("memset"),
    "ipow": lambda: subroutine(_IPOW.strip(), {}),
    "LANES": lambda: LANES,
    "inf": lambda: math.inf,
    "nan": lambda: math.nan,
    "splat": lambda: make("splat", lambda x: (x,), lambda x: x.spread(LANES)),
    "lane": lambda: make("lane", lambda v, i: (v, I64), _lane),
    "head": lambda: make("head", _head_type, _head),
    "where": lambda: make("where", _where, BASIC["where"]),
    "and_": lambda: make("and_", arithmetic(2), BASIC["bitand"]),
    "or_": lambda: make("or_", arithmetic(2), BASIC["bitor"]),
    "xor_": lambda: make("xor_", arithmetic(2), BASIC["bitxor"]),
    "not_": lambda: make("not_", arithmetic(1), BASIC["bitnot"]),
    "softmax_exp": lambda: make("softmax_exp", arithmetic(1), softmax_exp),
    "pow_": lambda: make("pow_", arithmetic(2), lambda a, b: a.libm("pow", b)),
    "atan2": lambda: make("atan2", arithmetic(2), lambda a, b: a.libm("atan2", b)),
}
# Names that other files of this folder provide.
ELSEWHERE = {
    "microkernel": "gemm_panel window_tile",
    "windows": "line_tile",
    "combine": "combine",
    "quant_panels": "int_panel",
    "shuffle": "transpose_u8 transpose_u16 transpose_u32 transpose_u64",
    "atomics": "atomic_load atomic_store atomic_add atomic_swap_if call_kernel nanoseconds pause give_way see_new_code sleep_while "
    "wake_all",
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
    if name in BASIC or name in TESTS:
        return make(name, arithmetic(_ARITY.get(name, 2)), BASIC.get(name) or TESTS[name])
    if name in FOLDS:
        return make(name, arithmetic(1), _fold(BASIC[FOLDS[name]]))
    if name in LIBM or name == "sqrt":
        return make(name, arithmetic(1), function(name))
    m = _TYPED.fullmatch(name)
    if m is None or not all(g in REGISTERS for g in m.groups()[1:] if g):
        return None
    if m[1] is None:
        return make(name, lambda x: (shaped(REGISTERS[m[3]], (x,)),), bits_code(m[3], m[4]))
    if m[1] == "to":
        return make(name, arithmetic(1), convert_code(m[2]))
    return _memory(m[1], m[2])


def prelude(text: str) -> dict[str, Any]:
    """The namespace in which a kernel text is executed: the names of this file that it mentions."""
    found = {name: lookup(name) for name in sorted(set(re.findall(r"[A-Za-z_]\w*", text)))}
    return {name: x for name, x in found.items() if x is not None}
