"""The values of kernel texts: what the operators of the language (language.py) and its calls do to them, as LLVM code.

A value is a `Val`, or a number of Python where it is known when the text is compiled. Integers wrap at 64 bits; `//` and `%` round
down as Python's do, and give 0 for a divisor of 0.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .conversions import convert
from .emit import Ty, Val

I64, F64, BOOL = Ty("i", 64), Ty("f", 64), Ty("u", 1)


class KernelTypeError(Exception):
    """What a text does makes no sense in this language."""


@dataclass(frozen=True)
class Intrinsic:
    """A name that stands for code: `typed(*types)` gives the types that its operands are converted to (and checks them),
    `emit(builder, values)` its value (None: it has none)."""

    name: str
    typed: Callable[..., Sequence[Ty]]
    emit: Callable[[ir.IRBuilder, list[Val]], Val | None]


@dataclass(frozen=True)
class Macro:
    """A name that stands for code and takes constants."""

    emit: Callable[..., Val]


def lift(b: ir.IRBuilder, x: Any, like: Ty | None = None) -> Val:
    """A value of what is known already: an i64, f64 or truth value, or a scalar like another's."""
    if isinstance(x, Val):
        return x
    if isinstance(x, bool):
        return Val(b, ir.Constant(BOOL.llvm, int(x)), BOOL)
    if isinstance(x, int):
        t = like if like is not None and like.kind == "f" else I64
        return Val(b, ir.Constant(t.elem, float(x) if t.kind == "f" else (x + 2**63) % 2**64 - 2**63), t.of_lanes(0))
    if isinstance(x, float):
        t = F64 if like is None or like.kind != "f" else like.of_lanes(0)
        return Val(b, ir.Constant(t.llvm, x), t)
    raise KernelTypeError(f"{x!r} is no value")


def cast(x: Val, t: Ty) -> Val:
    """A value as another type: integers are cut or extended, floats rounded; a scalar becomes a vector."""
    same = t.of_lanes(x.t.lanes)
    if x.t != same:
        x = convert(x, same.kind, same.bits) if same != BOOL else x.cmp("!=", 0)
    return x.spread(t.lanes) if t.lanes else x


def promoted(b: ir.IRBuilder, *xs: Any) -> list[Val]:
    """Scalars as one type: integers as i64 (u64 where all are), floats as they are."""
    floats = [x.t for x in xs if isinstance(x, Val) and x.t.kind == "f"]
    values = [lift(b, x, floats[0] if floats else None) for x in xs]
    types = {x.t for x in values}
    if any(t.lanes for t in types):
        raise KernelTypeError("operators take no vectors; call add, sub, lt, ...")
    if len(types) == 1 and (floats or next(iter(types)).bits == 64):
        return values
    unsigned = [t for t in types if t == Ty("u", 64)]
    constants = all(not isinstance(x, Val) and x >= 0 for x, v in zip(xs, values) if v.t != Ty("u", 64))
    if floats or (unsigned and not constants):
        raise KernelTypeError(f"operands of types {', '.join(sorted(str(t) for t in types))}; expected one: convert, as by i64(x)")
    return [cast(x, unsigned[0] if unsigned else I64) for x in values]


def truth(b: ir.IRBuilder, x: Any) -> Any:
    """A value as a truth value; True or False where that is known."""
    if not isinstance(x, Val):
        return bool(x)
    return x if x.t == BOOL else x.cmp("!=", 0)


def floor_divide(a: Val, by: Any) -> Val:
    """a // by."""
    if isinstance(by, int) and by > 0:
        if by & (by - 1) == 0:
            return a >> (by.bit_length() - 1)
        q = a / by
        return q - cast((a - q * by).cmp("<", 0), I64)
    d = _divisor(a, by)
    q = a / d
    r = a - q * d
    q = q - cast(r.cmp("!=", 0) & (r ^ d).cmp("<", 0), I64)
    return _guarded(a, by, q, -a)


def modulo(a: Val, by: Any) -> Val:
    """a % by, of the sign of `by`."""
    if isinstance(by, int) and by > 0:
        if by & (by - 1) == 0:
            return a & (by - 1)
        r = a % by
        return r.cmp("<", 0).pick(r + by, r)
    d = _divisor(a, by)
    r = a % d
    r = (r.cmp("!=", 0) & (r ^ d).cmp("<", 0)).pick(r + d, r)
    return _guarded(a, by, r, a.lift(0))


def _divisor(a: Val, by: Any) -> Val:
    """`by` where the processor can divide by it: 1 for 0, and for -1, of which the quotient may not be representable."""
    d = a.lift(by)
    return (d.cmp("==", 0) | d.cmp("==", -1)).pick(1, d) if a.t.kind == "i" else d.cmp("==", 0).pick(1, d)


def _guarded(a: Val, by: Any, value: Val, by_minus_one: Val) -> Val:
    d = a.lift(by)
    value = d.cmp("==", 0).pick(0, value)
    return d.cmp("==", -1).pick(by_minus_one, value) if a.t.kind == "i" else value


def _true_divide(a: Val, by: Any) -> Val:
    if a.t.kind != "f":
        raise KernelTypeError("integers are divided by //")
    return a / by


_KNOWN = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.Div: operator.truediv,
}  # fmt: skip
_EMITTED: dict[type, Callable[[Val, Any], Val]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: floor_divide, ast.Mod: modulo,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.Div: _true_divide,
}  # fmt: skip
COMPARED = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_COMPARED_KNOWN = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def binary(b: ir.IRBuilder, op: type, x: Any, y: Any) -> Any:
    if not isinstance(x, Val) and not isinstance(y, Val):
        return _KNOWN[op](x, y)
    if isinstance(x, Val) and isinstance(y, Val) and x.t == y.t == BOOL and op in (ast.BitAnd, ast.BitOr, ast.BitXor):
        return _EMITTED[op](x, y)
    v, w = promoted(b, x, y)
    if v.t.kind == "f" and op not in (ast.Add, ast.Sub, ast.Mult, ast.Div):
        raise KernelTypeError(f"{op.__name__} of floats; expected integers")
    return _EMITTED[op](v, y if op in (ast.FloorDiv, ast.Mod) and isinstance(y, int) else w)


def compare(b: ir.IRBuilder, op: str, x: Any, y: Any) -> Any:
    if not isinstance(x, Val) and not isinstance(y, Val):
        return _COMPARED_KNOWN[op](x, y)
    v, w = (lift(b, x), lift(b, y)) if isinstance(x, Val) and isinstance(y, Val) and x.t == y.t else promoted(b, x, y)
    return v.cmp(op, w)


def extreme(b: ir.IRBuilder, op: str, xs: Sequence[Any]) -> Any:
    """min or max of scalars."""
    if not any(isinstance(x, Val) for x in xs):
        return (min if op == "<" else max)(xs)
    first, *rest = promoted(b, *xs)
    for x in rest:
        first = x.cmp(op, first).pick(x, first)
    return first


def _absolute(b: ir.IRBuilder, x: Any) -> Any:
    if not isinstance(x, Val):
        return abs(x)
    return x.intrinsic("fabs") if x.t.kind == "f" else x.cmp("<", 0).pick(-x, x)


BUILTIN: dict[str, Callable[..., Any]] = {
    "min": lambda b, *xs: extreme(b, "<", xs), "max": lambda b, *xs: extreme(b, ">", xs), "abs": _absolute,
}  # fmt: skip
