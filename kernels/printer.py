"""Scalar expressions as lines of kernel text over the names of `vector.py`.

A value in a kernel is a name of the text and a dtype. Equal subexpressions are computed once, across all expressions that one
Printer prints. f16 and bf16 values are computed in f32 and rounded where an operator's result becomes a value (`value`), so that a
fused region gives what its operators give one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.scalar import COMPARE, Expr, postorder
from ..ir.types import BF16, BOOL, F16, F32, F64, DType

# The prelude's name of a primitive, where it differs.
_NAMES = {"abs": "absolute", "min": "minimum", "max": "maximum", "round": "rint"} | {
    n: n + "_" for n in ("not", "and", "or", "xor")
}
_HALVES = (F16, BF16)


def supported(d: DType) -> bool:
    """Whether kernels compute with this element type."""
    return d.kind not in ("complex", "string")


def _is_small(d: DType) -> bool:
    return d.is_float and d.bits <= 8


def literal(value: object, dtype: DType) -> str:
    """A constant of the text: `f32(0.5)`."""
    if dtype is BOOL:
        return str(bool(value))
    number = float(value) if dtype.is_float else int(value)  # type: ignore[call-overload]
    if isinstance(number, float) and not math.isfinite(number):
        shown = "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"
    else:
        shown = repr(number)
    return f"{register(dtype)}({shown})"


def register(dtype: DType) -> str:
    """The type that holds values of a dtype in registers."""
    if dtype.is_float:
        return "f64" if dtype is F64 else "f32"
    return dtype.name if dtype.bits >= 8 else {"int": "i8", "uint": "u8"}[dtype.kind]


def _is_exact(e: Expr) -> bool:
    """Whether the value of an expression over f16 or bf16 is surely one of that type."""
    todo = [e]
    while todo:
        x = todo.pop()
        if x.fn in ("arg", "const", "cast", "bitcast"):
            continue
        if x.fn not in ("neg", "abs", "min", "max", "where"):
            return False
        todo += x.args[x.fn == "where" :]
    return True


def _constant(e: Expr, args: Sequence[str | Expr]) -> float | None:
    """The number that an expression is, None where it is not known."""
    if e.fn == "arg" and isinstance(args[e.value], Expr):
        e = args[e.value]  # type: ignore[assignment]
    return float(e.value) if e.fn == "const" else None


class Printer:
    """Collects lines; every method returns the name (or literal) of a value."""

    def __init__(self, prefix: str = "t"):
        self.lines: list[str] = []
        self._prefix = prefix
        self._known: dict[str, str] = {}

    def let(self, text: str) -> str:
        """A name for an expression of the text, the same for the same text."""
        name = self._known.get(text)
        if name is None:
            name = self._known[text] = f"{self._prefix}{len(self.lines)}"
            self.lines.append(f"{name} = {text}")
        return name

    def value(self, e: Expr, args: Sequence[str | Expr]) -> str:
        """The result of an operator: its expression over operands (names, or constant expressions), rounded to its element type."""
        memo: dict[int, str] = {}
        for part in postorder(e):
            self._print(part, args, memo)
        out = memo[id(e)]
        return self.let(f"to_{e.dtype}({out})") if e.dtype in _HALVES and not _is_exact(e) else out

    def _print(self, e: Expr, args: Sequence[str | Expr], memo: dict[int, str]) -> str:
        if id(e) not in memo:
            memo[id(e)] = self._primitive(e, args, memo)
        return memo[id(e)]

    def _primitive(self, e: Expr, args: Sequence[str | Expr], memo: dict[int, str]) -> str:
        if e.fn == "arg":
            given = args[e.value]
            return literal(given.value, given.dtype) if isinstance(given, Expr) else given
        if e.fn == "const":
            return literal(e.value, e.dtype)
        xs = [self._print(x, args, memo) for x in e.args]
        if e.fn == "pow":
            return self._pow(e, xs, _constant(e.args[1], args))
        if e.fn == "cast":
            return self._cast(xs[0], e.args[0].dtype, e.dtype)
        if e.fn == "bitcast":
            return self.let(f"bits_{e.args[0].dtype}_{e.dtype}({xs[0]})")
        name = _NAMES.get(e.fn, e.fn)
        if e.fn in COMPARE and e.args[0].dtype is BOOL:
            xs = [self.let(f"to_u8({x})") for x in xs]
        out = self.let(f"{name}({', '.join(xs)})")
        # Integers of under 8 bits and small floats live in wider registers; numpy rounds the latter after every step.
        return self.let(f"to_{e.dtype}({out})") if e.dtype.bits < 8 or _is_small(e.dtype) else out

    def _cast(self, x: str, source: DType, to: DType) -> str:
        if to is F32 and (source in _HALVES or _is_small(source)):
            return x
        return self.let(f"to_{to}({x})")

    def _pow(self, e: Expr, xs: Sequence[str], exponent: float | None) -> str:
        x, y = xs
        d, other = e.args[0].dtype, e.args[1].dtype
        if d.is_integer and other.is_integer:
            if exponent in (1, 2, 3):
                return self._small_power(x, exponent, d)
            return self.let(f"to_{d}(ipow(to_i64({x}), to_{'u' if other.kind == 'uint' else 'i'}64({y})))")
        if d.is_float and exponent in (-1, 0.5, 1, 2, 3):
            return self._small_power(x, exponent, d)
        if register(d) == register(other):
            return self.let(f"pow_({x}, {y})")
        return self.let(f"to_{d}(pow_(to_f64({x}), to_f64({y})))")

    def _small_power(self, x: str, power: float | None, d: DType) -> str:
        if power == 1.0:
            return x
        if power == 0.5:
            return self._sqrt_power(x, d)
        if power == -1.0:
            return self.let(f"div({literal(1, d)}, {x})")
        square = self.let(f"mul({x}, {x})")
        return square if power == 2.0 else self.let(f"mul({square}, {x})")

    def _sqrt_power(self, x: str, d: DType) -> str:
        """pow(-inf, 0.5) is inf and pow(-0, 0.5) is 0, unlike the square root's."""
        root = self.let(f"sqrt(add({x}, {literal(0.0, d)}))")
        is_low = self.let(f"eq({x}, {literal(-math.inf, d)})")
        return self.let(f"where({is_low}, {literal(math.inf, d)}, {root})")
