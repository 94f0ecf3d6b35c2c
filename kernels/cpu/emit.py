"""Typed scalars and vectors while LLVM code is emitted. `conversions.py` and `arithmetic.py` stand on them.

A `Val` is an LLVM value with its element type and lane count; all functions here work on scalars and vectors alike and
contain no branches, so that loops over them vectorise. f16 and bf16 exist only in memory: in registers they are f32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir


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
