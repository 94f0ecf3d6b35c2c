"""The semantics of `ir/scalar.py`'s primitives as LLVM code, number by number, on scalars and vectors alike, without branches."""

from __future__ import annotations

from collections.abc import Callable

from .conversions import convert
from .emit import Val
from .tiling import architecture


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
