"""Conversions between element types as LLVM code, also of floats of 16 bits and fewer, which exist in memory only."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from llvmlite import ir

from .emit import Ty, Val


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
