"""Emission of LLVM code for typed scalars and vectors: the semantics of `ir/scalar.py`'s primitives, number by number.

A `Val` is an LLVM value with its element type and lane count; all functions here work on scalars and vectors alike and
contain no branches, so that loops over them vectorise. f16 and bf16 exist only in memory: in registers they are f32.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .tiling import architecture


@dataclass(frozen=True, slots=True)
class Ty:
    """kind "f", "i" or "u" (a bool is u1), width in bits, lanes (0: a scalar)."""

    kind: str
    bits: int
    lanes: int = 0

    @property
    def elem(self) -> ir.Type:
        return (ir.FloatType() if self.bits == 32 else ir.DoubleType()) if self.kind == "f" else ir.IntType(self.bits)

    @property
    def llvm(self) -> ir.Type:
        return ir.VectorType(self.elem, self.lanes) if self.lanes else self.elem

    @property
    def suffix(self) -> str:
        """How names of LLVM's intrinsics spell the type."""
        return (f"v{self.lanes}" if self.lanes else "") + ("f" if self.kind == "f" else "i") + str(self.bits)

    def of(self, kind: str, bits: int) -> Ty:
        """As many lanes of another element type."""
        return Ty(kind, bits, self.lanes)

    def of_lanes(self, lanes: int) -> Ty:
        return Ty(self.kind, self.bits, lanes)


class Val:
    """An LLVM value of type `t` in the making by builder `b`, with the operators of its element type."""

    __slots__ = ("b", "t", "v")

    def __init__(self, b: ir.IRBuilder, v: Any, t: Ty):
        self.b, self.v, self.t = b, v, t

    def lift(self, x: Any) -> Val:
        """`x`, a number or a scalar, as a value of this type and lane count."""
        if not isinstance(x, Val):
            c = ir.Constant(self.t.elem, float(x) if self.t.kind == "f" else int(x))
            return Val(self.b, ir.Constant(self.t.llvm, [c] * self.t.lanes) if self.t.lanes else c, self.t)
        if x.t.lanes or not self.t.lanes:
            return x
        one = self.b.insert_element(ir.Constant(self.t.llvm, ir.Undefined), x.v, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.t.lanes), [0] * self.t.lanes)
        return Val(self.b, self.b.shuffle_vector(one, one, zeros), self.t)

    def _do(self, names: str, other: Any) -> Val:
        """The instruction for (float, signed, unsigned), separated by spaces."""
        x, y = same_lanes(self, self.lift(other))
        name = names.split()["fiu".index(x.t.kind)]
        return Val(x.b, getattr(x.b, name)(x.v, y.v), x.t)

    def __add__(self, o: Any) -> Val:
        return self._do("fadd add add", o)

    def __sub__(self, o: Any) -> Val:
        return self._do("fsub sub sub", o)

    def __mul__(self, o: Any) -> Val:
        return self._do("fmul mul mul", o)

    def __truediv__(self, o: Any) -> Val:
        return self._do("fdiv sdiv udiv", o)

    def __mod__(self, o: Any) -> Val:
        return self._do("frem srem urem", o)

    def __and__(self, o: Any) -> Val:
        return self._do("and_ and_ and_", o)

    def __or__(self, o: Any) -> Val:
        return self._do("or_ or_ or_", o)

    def __xor__(self, o: Any) -> Val:
        return self._do("xor xor xor", o)

    def __lshift__(self, o: Any) -> Val:
        return self._do("shl shl shl", o)

    def __rshift__(self, o: Any) -> Val:
        return self._do("lshr ashr lshr", o)

    def __neg__(self) -> Val:
        return Val(self.b, self.b.fneg(self.v) if self.t.kind == "f" else self.b.neg(self.v), self.t)

    def __invert__(self) -> Val:
        return self ^ self.lift(-1 if self.t.bits > 1 else 1)

    def cmp(self, op: str, o: Any) -> Val:
        """A comparison: ordered for floats, except that `!=` is true for NaN; "uno" asks whether either is NaN."""
        x, y = same_lanes(self, self.lift(o))
        if x.t.kind == "f":
            v = x.b.fcmp_unordered(op, x.v, y.v) if op in ("!=", "uno") else x.b.fcmp_ordered(op, x.v, y.v)
        else:
            v = (x.b.icmp_signed if x.t.kind == "i" else x.b.icmp_unsigned)(op, x.v, y.v)
        return Val(x.b, v, x.t.of("u", 1))

    def pick(self, a: Any, b: Any) -> Val:
        """`a` where this condition holds, else `b`."""
        like = a if isinstance(a, Val) else b
        a, b = like.lift(a), like.lift(b)
        lanes = max(self.t.lanes, a.t.lanes, b.t.lanes)
        c, a, b = (x.spread(lanes) for x in (self, a, b))
        return Val(c.b, c.b.select(c.v, a.v, b.v), a.t)

    def spread(self, lanes: int) -> Val:
        return self if self.t.lanes == lanes else Val(self.b, None, Ty(self.t.kind, self.t.bits, lanes)).lift(self)

    def bits_as(self, kind: str) -> Val:
        """The same bits as an integer or a float."""
        t = self.t.of(kind, self.t.bits)
        return Val(self.b, self.b.bitcast(self.v, t.llvm) if "f" in (kind, self.t.kind) else self.v, t)

    def intrinsic(self, name: str, *others: Any) -> Val:
        """LLVM's intrinsic `llvm.<name>` of this value and others of its type."""
        xs = same_lanes(self, *(self.lift(o) for o in others))
        t = xs[0].t
        fn = declare(self.b, f"llvm.{name}.{t.suffix}", t.llvm, [t.llvm] * len(xs))
        return Val(self.b, self.b.call(fn, [x.v for x in xs]), t)

    def libm(self, name: str, *others: Any) -> Val:
        """The C library's function (`<name>f` for f32), lane by lane."""
        xs = same_lanes(self, *(self.lift(o) for o in others))
        t = xs[0].t
        fn = declare(self.b, name + ("f" if t.bits == 32 else ""), t.elem, [t.elem] * len(xs))
        if not t.lanes:
            return Val(self.b, self.b.call(fn, [x.v for x in xs]), t)
        out = ir.Constant(t.llvm, ir.Undefined)
        for i in range(t.lanes):
            at = ir.Constant(ir.IntType(32), i)
            out = self.b.insert_element(out, self.b.call(fn, [self.b.extract_element(x.v, at) for x in xs]), at)
        return Val(self.b, out, t)

    def fma(self, a: Any, b: Any) -> Val:
        """self * a + b, fused where the host can do so cheaply."""
        return self.intrinsic("fmuladd", a, b)


def same_lanes(*xs: Val) -> list[Val]:
    lanes = max(x.t.lanes for x in xs)
    return [x.spread(lanes) for x in xs]


def declare(b: ir.IRBuilder, name: str, result: ir.Type, args: list[ir.Type]) -> ir.Function:
    """The function of the module, declared once."""
    found = b.module.globals.get(name)
    return found if found is not None else ir.Function(b.module, ir.FunctionType(result, args), name)


def poly(x: Val, coefficients: list[float]) -> Val:
    """c[0] + x c[1] + x² c[2] + ... by Horner's rule."""
    out = x.lift(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = out.fma(x, c)
    return out


# ---- conversions ------------------------------------------------------------------------------------------------


def convert(x: Val, kind: str, bits: int) -> Val:
    """x as another element type. Floats become integers as `ir/scalar.py` says: truncated, then modulo 2^n of their value as an
    i64; NaN and what no i64 (for u64: no u64) holds give 0 in types of up to 32 bits and 2^63 in those of 64."""
    t = x.t.of(kind, bits)
    if (x.t.kind, x.t.bits) == (kind, bits):
        return x
    if bits == 1:
        return x.cmp("!=", 0)
    if x.t.kind == "f":
        return _from_float(x, t)
    if kind == "f":
        return Val(x.b, (x.b.sitofp if x.t.kind == "i" else x.b.uitofp)(x.v, t.llvm), t)
    if bits == x.t.bits:
        return Val(x.b, x.v, t)
    grow = x.b.sext if x.t.kind == "i" else x.b.zext
    return Val(x.b, grow(x.v, t.llvm) if bits > x.t.bits else x.b.trunc(x.v, t.llvm), t)


def _from_float(x: Val, t: Ty) -> Val:
    if t.kind == "f":
        return Val(x.b, (x.b.fpext if t.bits > x.t.bits else x.b.fptrunc)(x.v, t.llvm), t)
    if t.bits < 64:
        return convert(_modulo_i32(x), t.kind, t.bits)
    if t.kind == "i":
        return _truncated(x, 64)
    big = x.cmp(">=", 2.0**63)
    low = convert(_truncated(big.pick(x - 2.0**63, x), 64), "u", 64)
    return low ^ big.pick(low.lift(2**63), low.lift(0))


def _truncated(x: Val, bits: int) -> Val:
    """Towards zero to i32 or i64; INT_MIN where NaN or out of range (LLVM leaves those undefined)."""
    inside = x.cmp(">=", -(2.0 ** (bits - 1))) & x.cmp("<", 2.0 ** (bits - 1))
    t = x.t.of("i", bits)
    return inside.pick(Val(x.b, x.b.fptosi(inside.pick(x, 0.0).v, t.llvm), t), -(2 ** (bits - 1)))


def _modulo_i32(x: Val) -> Val:
    """The low 32 bits of x truncated to i64, without leaving the float unit: every step is exact."""
    whole = x.intrinsic("trunc")
    rest = whole - (whole * 2.0**-32).intrinsic("trunc") * 2.0**32
    rest = rest.cmp(">=", 2.0**31).pick(rest - 2.0**32, rest)
    rest = rest.cmp("<", -(2.0**31)).pick(rest + 2.0**32, rest)
    inside = x.intrinsic("fabs").cmp("<", 2.0**63)
    t = x.t.of("i", 32)
    return Val(x.b, x.b.fptosi(inside.pick(rest, 0.0).v, t.llvm), t)


def f32_bits(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def half_to_f32(h: Val, native: bool) -> Val:
    """The 16 bits of an f16 (u16) as f32."""
    if native:
        t = h.t.of("f", 32)
        half = ir.VectorType(ir.HalfType(), h.t.lanes) if h.t.lanes else ir.HalfType()
        return Val(h.b, h.b.fpext(h.b.bitcast(h.v, half), t.llvm), t)
    w = convert(h, "u", 32)
    sign, mag = (w & 0x8000) << 16, w & 0x7FFF
    # Denormals and zero: the mantissa as a number times 2^-24. Others: rebias; infinity and NaN get the full exponent.
    small = (convert(convert(mag, "i", 32), "f", 32) * 2.0**-24).bits_as("u")
    normal = (mag << 13) + ((127 - 15) << 23)
    special = (mag << 13) | 0x7F800000
    out = mag.cmp("<", 0x400).pick(small, mag.cmp(">=", 0x7C00).pick(special, normal))
    return (out | sign).bits_as("f")


def f32_to_half(x: Val, native: bool) -> Val:
    """The bits (u16) of an f32 rounded to f16, half to even; NaN stays NaN."""
    if native:
        half = ir.VectorType(ir.HalfType(), x.t.lanes) if x.t.lanes else ir.HalfType()
        t = x.t.of("u", 16)
        return Val(x.b, x.b.bitcast(x.b.fptrunc(x.v, half), t.llvm), t)
    w = x.bits_as("u")
    sign, mag = (w >> 16) & 0x8000, w & 0x7FFFFFFF
    # Adding 0.5 aligns the mantissa of a result below 2^-14 so that the float unit itself rounds it.
    tiny = (mag.bits_as("f") + 0.5).bits_as("u") - f32_bits(0.5)
    normal = (mag - ((127 - 15) << 23) + 0xFFF + ((mag >> 13) & 1)) >> 13
    out = mag.cmp("<", f32_bits(2.0**-14)).pick(tiny, mag.cmp(">=", f32_bits(65520.0)).pick(normal.lift(0x7C00), normal))
    out = mag.cmp(">", 0x7F800000).pick(out.lift(0x7E00), out)
    return convert(out | sign, "u", 16)


def bf16_to_f32(h: Val) -> Val:
    return (convert(h, "u", 32) << 16).bits_as("f")


def f32_to_bf16(x: Val) -> Val:
    """The bits (u16) of an f32 rounded to bf16, half to even; NaN stays NaN."""
    w = x.bits_as("u")
    rounded = (w + 0x7FFF + ((w >> 16) & 1)) >> 16
    return convert(x.cmp("uno", x).pick((w >> 16) | 0x40, rounded), "u", 16)


def to_odd(x: Val) -> Val:
    """An f64 as the f32 from which it rounds to any narrower type as if directly (inexact results get an odd last bit)."""
    f = convert(x, "f", 32)
    back, bits = convert(f, "f", 64), f.bits_as("u")
    step = back.intrinsic("fabs").cmp(">", x.intrinsic("fabs")).pick(bits - 1, bits + 1)
    inexact = back.cmp("!=", x) & x.cmp("==", x)
    return (inexact & (bits & 1).cmp("==", 0)).pick(step, bits).bits_as("f")


# ---- floats of up to 8 bits -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SmallFloat:
    """A format of sign, exponent and mantissa. `top` is the code of the greatest number; `special` what the formats differ in:
    "ieee" (infinity and NaN), "nan" (all ones), "unsigned zero" (the code of -0 is NaN), "finite" (neither)."""

    exponent: int
    mantissa: int
    bias: int
    top: int
    special: str

    @property
    def sign(self) -> int:
        return 1 << (self.exponent + self.mantissa)


SMALL_FLOATS = {
    "f8e4m3fn": SmallFloat(4, 3, 7, 0x7E, "nan"), "f8e4m3fnuz": SmallFloat(4, 3, 8, 0x7F, "unsigned zero"),
    "f8e5m2": SmallFloat(5, 2, 15, 0x7B, "ieee"), "f8e5m2fnuz": SmallFloat(5, 2, 16, 0x7F, "unsigned zero"),
    "f6e2m3": SmallFloat(2, 3, 1, 0x1F, "finite"), "f6e3m2": SmallFloat(3, 2, 3, 0x1F, "finite"),
    "f4e2m1": SmallFloat(2, 1, 1, 0x07, "finite"),
}  # fmt: skip


def small_to_f32(code: Val, name: str) -> Val:
    """The number that the 8 bits (u8) of a small float stand for."""
    w = convert(code, "u", 32)
    if name == "f8e8m0":  # powers of two from 2^-127, which is a denormal
        return w.cmp("==", 255).pick(w.lift(0x7FC00000), w.cmp("==", 0).pick(w.lift(0x400000), w << 23)).bits_as("f")
    f = SMALL_FLOATS[name]
    sign, mag = (w & f.sign) << (32 - f.sign.bit_length()), w & (f.sign - 1)
    small = (convert(convert(mag, "i", 32), "f", 32) * 2.0 ** (1 - f.bias - f.mantissa)).bits_as("u")
    out = mag.cmp("<", 1 << f.mantissa).pick(small, (mag << (23 - f.mantissa)) + ((127 - f.bias) << 23))
    if f.special == "ieee":
        out = mag.cmp(">", f.top).pick((mag << (23 - f.mantissa)) | 0x7F800000, out)
    elif f.special == "nan":
        out = mag.cmp(">", f.top).pick(out.lift(0x7FC00000), out)
    out = out | sign
    if f.special == "unsigned zero":
        out = w.cmp("==", f.sign).pick(out.lift(0x7FC00000), out)
    return out.bits_as("f")


def f32_to_small(x: Val, name: str) -> Val:
    """The code (u8) of an f32 rounded to a small float, half to even (f8e8m0: half up).

    Beyond the greatest number lie infinity, else NaN, else that number; NaN in a format without one gives zero of the other sign.
    """
    w = x.bits_as("u")
    mag = w & 0x7FFFFFFF
    if name == "f8e8m0":
        denormal = convert(w.cmp(">", 0x400000), "u", 32)
        out = w.cmp("<", 0x800000).pick(denormal, (w + 0x400000) >> 23)
        return convert((w.cmp("==", 0) | w.cmp(">=", 0x7F800000)).pick(out.lift(255), out), "u", 8)
    f = SMALL_FLOATS[name]
    sign, drop = (w >> (32 - f.sign.bit_length())) & f.sign, 23 - f.mantissa
    # Adding a power of two whose last bit is the least denormal lets the float unit round.
    unit = 2.0 ** (1 - f.bias - f.mantissa + 23)
    tiny = (mag.bits_as("f") + unit).bits_as("u") - f32_bits(unit)
    normal = (mag - ((127 - f.bias) << 23) + ((1 << (drop - 1)) - 1) + ((mag >> drop) & 1)) >> drop
    out = mag.cmp("<", f32_bits(2.0 ** (1 - f.bias))).pick(tiny, normal)
    beyond = mag.cmp(">=", 0x7F800000) | out.cmp(">", f.top)
    isnan = mag.cmp(">", 0x7F800000)
    if f.special == "unsigned zero":
        out = out.cmp("==", 0).pick(out, out | sign)
        return convert(beyond.pick(out.lift(f.sign), out), "u", 8)
    if f.special == "finite":
        return convert(isnan.pick(sign ^ f.sign, beyond.pick(out.lift(f.top), out) | sign), "u", 8)
    out = isnan.pick(out.lift(f.sign - 1 - (f.special == "ieee")), beyond.pick(out.lift(f.top + 1), out))
    return convert(out | sign, "u", 8)


# ---- arithmetic -------------------------------------------------------------------------------------------------


def div(a: Val, b: Val) -> Val:
    """Floats: IEEE. Integers: truncating; 0 for a zero divisor, INT_MIN / -1 is INT_MIN."""
    if a.t.kind == "f":
        return a / b
    safe = _safe_divisor(b)
    q = a / safe
    if a.t.kind == "i":
        q = b.cmp("==", -1).pick(-a, q)
    return b.cmp("==", 0).pick(q.lift(0), q)


def _safe_divisor(b: Val) -> Val:
    bad = b.cmp("==", 0)
    return (bad | b.cmp("==", -1) if b.t.kind == "i" else bad).pick(b.lift(1), b)


def fmod(a: Val, b: Val) -> Val:
    """The remainder with the dividend's sign; integers: 0 for a zero divisor."""
    if a.t.kind == "f":
        return a.libm("fmod", b)
    return b.cmp("==", 0).pick(a.lift(0), a % _safe_divisor(b))


def mod(a: Val, b: Val) -> Val:
    """The remainder with the divisor's sign; integers: 0 for a zero divisor."""
    r = fmod(a, b)
    if a.t.kind == "u":
        return r
    differ = r.cmp("!=", 0) & (r.cmp("<", 0) ^ b.cmp("<", 0))
    if a.t.kind == "i":
        return differ.pick(r + b, r)
    return r.cmp("==", 0).pick(r.intrinsic("copysign", b), differ.pick(r + b, r))


def floordiv(a: Val, b: Val) -> Val:
    """The quotient rounded down; the float case follows numpy's floor_divide."""
    if a.t.kind == "u":
        return div(a, b)
    r = fmod(a, b)
    differ = r.cmp("!=", 0) & (r.cmp("<", 0) ^ b.cmp("<", 0))
    if a.t.kind == "i":
        q = div(a, b)
        return differ.pick(q - 1, q)
    q = (a - r) / b
    q = differ.pick(q - 1.0, q)
    whole = q.intrinsic("floor")
    whole = (q - whole).cmp(">", 0.5).pick(whole + 1.0, whole)
    whole = q.cmp("==", 0).pick((q.lift(0.0)).intrinsic("copysign", a / b), whole)
    return b.cmp("==", 0).pick(a / b, whole)


def minimum(a: Val, b: Val) -> Val:
    """The smaller; NaN if either is."""
    return _extreme(a, b, "<", "minimum")


def maximum(a: Val, b: Val) -> Val:
    """The greater; NaN if either is."""
    return _extreme(a, b, ">", "maximum")


def _extreme(a: Val, b: Val, op: str, name: str) -> Val:
    """aarch64 has IEEE's functions. Elsewhere one compare-and-select, the x86 min, which takes the second of two zeros, and
    one that brings NaN back. numpy answers the same on either."""
    if a.t.kind == "f" and architecture() == "aarch64":
        return a.intrinsic(name, b)
    chosen = a.cmp(op, b).pick(a, b)
    return a.cmp("uno", a).pick(a, chosen) if a.t.kind == "f" else chosen


def absolute(x: Val) -> Val:
    return x.intrinsic("fabs") if x.t.kind == "f" else x if x.t.kind == "u" else x.cmp("<", 0).pick(-x, x)


def sign(x: Val) -> Val:
    """-1, 0 or 1; NaN stays NaN."""
    up = x.cmp(">", 0).pick(x.lift(1), x.lift(0))
    if x.t.kind == "u":
        return up
    out = x.cmp("<", 0).pick(x.lift(-1), up)
    return x.cmp("uno", x).pick(x, out) if x.t.kind == "f" else out


def _rounding(name: str) -> Callable[[Val], Val]:
    return lambda x: x.intrinsic(name) if x.t.kind == "f" else x


def shift_left(a: Val, b: Val) -> Val:
    inside = convert(b, "u", b.t.bits).cmp("<", a.t.bits)
    return inside.pick(a << inside.pick(b, b.lift(0)), a.lift(0))


def shift_right(a: Val, b: Val) -> Val:
    inside = convert(b, "u", b.t.bits).cmp("<", a.t.bits)
    return a >> inside.pick(b, b.lift(a.t.bits - 1)) if a.t.kind == "i" else inside.pick(a >> inside.pick(b, b.lift(0)), a.lift(0))


def isinf(x: Val) -> Val:
    return x.intrinsic("fabs").cmp("==", float("inf")) if x.t.kind == "f" else x.cmp("!=", x)


BASIC: dict[str, Callable[..., Val]] = {
    "square": lambda x: x * x, "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": div, "fmod": fmod, "mod": mod,
    "floordiv": floordiv, "minimum": minimum, "maximum": maximum, "bitand": lambda a, b: a & b, "bitor": lambda a, b: a | b,
    "bitxor": lambda a, b: a ^ b, "shl": shift_left, "shr": shift_right, "neg": lambda x: -x, "bitnot": lambda x: ~x,
    "absolute": absolute, "sign": sign, "floor": _rounding("floor"), "ceil": _rounding("ceil"), "trunc": _rounding("trunc"),
    "rint": _rounding("rint"), "where": lambda c, a, b: c.pick(a, b), "fma": lambda a, b, c: a.fma(b, c),
}  # fmt: skip
TESTS: dict[str, Callable[..., Val]] = {
    "lt": lambda a, b: a.cmp("<", b), "le": lambda a, b: a.cmp("<=", b), "gt": lambda a, b: a.cmp(">", b),
    "ge": lambda a, b: a.cmp(">=", b), "eq": lambda a, b: a.cmp("==", b), "ne": lambda a, b: a.cmp("!=", b),
    "isnan": lambda x: x.cmp("!=", x), "isinf": isinf,
}  # fmt: skip
