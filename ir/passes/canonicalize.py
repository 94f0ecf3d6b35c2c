"""Removes operations that do nothing and brings arithmetic to its plain form: what other passes expect.

Only what keeps every bit is done here: nothing is reassociated, and where -0.0, infinities or NaN would come out otherwise the rule
refuses. The rules on data movement stand in movement.py, those on `if` and `loop` in inline.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core import Module, Value
from ..infer import infer_module
from ..rewrite import Builder, Match, Pattern, Rule, refuse, rewrite, scalar_constant
from ..types import BF16, BOOL, F16, F32, F64, FLOATS, DType, TensorType
from . import inline, movement
from .manager import Context, register
from .movement import noop, same_type


def _identity(m: Match, b: Builder) -> Any:
    return m["x"]


def _dropout(m: Match, b: Builder) -> Any:
    """Inference: dropout hands its input on; the mask is all true."""
    training = m.root.operand(2)
    if training is not None and (training.array is None or bool(training.array.ravel()[0])):
        return refuse("training mode", training=training)
    if len(m.root.results) == 1:
        return m["x"]
    mask = m["x"] if m.root.results[1].is_dead else None
    return [m["x"], mask or b.op("constant_of_shape", b.op("shape", m["x"]), value=np.array([True]))]


# ---- units, signs, powers ---------------------------------------------------------------------------------------


def _unit(number: float, commutative: bool = False) -> Any:
    """x op c where the constant c changes nothing."""

    def build(m: Match, b: Builder) -> Any:
        pairs = [(m["x"], m["c"])] + ([(m["c"], m["x"])] if commutative else [])
        return next((x for x, c in pairs if scalar_constant(c) == number and same_type(x, m.root.result)), None)

    return build


def _add_zero(m: Match, b: Builder) -> Any:
    for x, c in ((m["x"], m["c"]), (m["c"], m["x"])):
        number = scalar_constant(c)
        if number == 0 and same_type(x, m.root.result):
            if x.tensor.dtype.is_float and not np.signbit(number):
                return refuse("x + 0.0 turns -0.0 into 0.0")
            return x
    return None


def _sub_zero(m: Match, b: Builder) -> Any:
    c = scalar_constant(m["c"])
    if c != 0 or not same_type(m["x"], m.root.result):
        return None
    if np.signbit(c) and m["x"].tensor.dtype.is_float:
        return refuse("x - -0.0 turns -0.0 into 0.0")
    return m["x"]


def _div_by_power_of_two(m: Match, b: Builder) -> Any:
    """The quotient and the product are one number, rounded once, where 1 / c is exact."""
    c = m["c"]
    if not c.is_const or c.tensor.dtype not in FLOATS or c.tensor.size == 0:
        return None
    a = c.const.array.astype(np.float64)  # type: ignore[union-attr]
    with np.errstate(all="ignore"):
        inverse = (1 / a).astype(c.tensor.dtype.np)
        exact = np.isfinite(a).all() and (np.abs(np.frexp(a)[0]) == 0.5).all() and (inverse.astype(np.float64) == 1 / a).all()
    return b.op("mul", m["x"], b.const(inverse, f"{c.name}.inverse")) if exact else refuse("no power of two", divisor=c)


def _square(m: Match, b: Builder) -> Any:
    if scalar_constant(m["c"]) != 2 or not same_type(m["x"], m.root.result):
        return None
    return b.op("mul", m["x"], m["x"])


def _square_root(m: Match, b: Builder) -> Any:
    if scalar_constant(m["c"]) != 0.5 or not same_type(m["x"], m.root.result) or m["x"].tensor.dtype not in FLOATS:
        return None
    if not never_negative(m["x"]):
        return refuse("the base may be -0.0 or -inf, of which pow and sqrt make different numbers")
    return b.op("sqrt", m["x"])


NEVER_NEGATIVE = frozenset({"abs", "exp", "sigmoid", "softmax", "reduce_l1", "reduce_l2", "reduce_sum_square", "hard_sigmoid"})
KEEPS_SIGN = frozenset({"add", "max", "sum", "mean", "reduce_mean", "reduce_max", "reduce_min", "reduce_sum", "transpose",
                        *movement.VIEWS})  # fmt: skip


def never_negative(v: Value, depth: int = 8) -> bool:
    """Whether every element surely is NaN or has no sign: positive or +0.0."""
    if v.is_const:
        a = v.const.array  # type: ignore[union-attr]
        return a.dtype != object and not bool(np.any(np.signbit(a.astype(np.float64))))
    node = v.node
    if node is None or depth == 0:
        return False
    if node.op.name in NEVER_NEGATIVE:
        return True
    if node.op.name == "mul" and node.operands[0] is node.operands[1]:
        return True
    tensors = node.operands[:1] if node.op.name.startswith("reduce") or node.op.name in movement.VIEWS else node.operands
    return node.op.name in KEEPS_SIGN and all(x is not None and never_negative(x, depth - 1) for x in tensors)


def _two_sum(m: Match, b: Builder) -> Any:
    return b.op("add", *m.root.operands) if len(m.root.operands) == 2 else None


# ---- involutions, choices, bounds -------------------------------------------------------------------------------


def _inner_operand(m: Match, b: Builder) -> Any:
    """f(f(x)) => x."""
    return m["x"]


def _idempotent(m: Match, b: Builder) -> Any:
    """f(f(x)) => f(x)."""
    return m.root.operands[0]


def _where(m: Match, b: Builder) -> Any:
    """One of the branches, where the condition is constant and of one kind, or both are the same."""
    condition, x, y = m.root.operands
    if x is y:
        chosen: Value | None = x
    elif condition is not None and condition.is_const and condition.tensor.size != 0:
        flags = condition.const.array  # type: ignore[union-attr]
        if flags.any() != flags.all():
            return refuse("the condition is not the same for all elements")
        chosen = x if flags.all() else y
    else:
        return None
    return chosen if same_type(chosen, m.root.result) else refuse("the branch is broadcast", result=m.root.result.type)


BOUNDS = ("clip", "relu", "min", "max")
Bound = tuple[Value, float, float]  # of what, lowest, highest


def _bound(node: Any) -> Bound | None:
    """What a node bounds by constants, and the bounds (infinite where there are none)."""
    operands = node.operands
    if node.op.name == "relu":
        return operands[0], 0.0, np.inf
    if node.op.name == "clip":
        lo, hi = (node.operand(i) for i in (1, 2))
        low = -np.inf if lo is None else scalar_constant(lo)
        high = np.inf if hi is None else scalar_constant(hi)
        return None if low is None or high is None else (operands[0], low, high)
    if len(operands) != 2:
        return None
    for x, c in (operands, operands[::-1]):
        number = scalar_constant(c)
        if number is not None and same_type(x, node.result):
            return (x, number, np.inf) if node.op.name == "max" else (x, -np.inf, number)
    return None


def _bounds_of_bounds(m: Match, b: Builder) -> Any:
    """Two bounds one after the other are one clip: clip(clip(x, l, h), l2, h2) = clip(x, clip(l, l2, h2), clip(h, l2, h2))."""
    outer, inner = _bound(m.root), _bound(m.node("inner"))
    if outer is None or inner is None or outer[0] is not m.node("inner").result:
        return None
    x, low, high = inner
    if not same_type(x, m.root.result) or not (low <= high and outer[1] <= outer[2]):
        return refuse("bounds that cross, or that widen the result")
    dtype = x.tensor.dtype
    if dtype.is_integer and dtype.bits > 32:
        return refuse("bounds of 64-bit integers", type=x.type)
    bounds = [min(max(n, outer[1]), outer[2]) for n in (low, high)]
    if bounds[0] == np.inf or bounds[1] == -np.inf:
        return refuse("an infinite bound on the wrong side")
    operands = [None if np.isinf(n) else b.const(np.array(n, dtype.np)) for n in bounds]
    return b.op("clip", x, *operands)


def _dead_clip(m: Match, b: Builder) -> Any:
    """clip without bounds."""
    return m["x"] if all(v is None for v in m.root.operands[1:]) else None


# ---- casts ------------------------------------------------------------------------------------------------------

_FLOAT_BITS = {F16: (11, 5), BF16: (8, 8), F32: (24, 8), F64: (53, 11)}  # precision, exponent


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if wide is narrow or (narrow is BOOL and (wide.is_integer or wide in FLOATS)):
        return True
    if narrow in _FLOAT_BITS and wide in _FLOAT_BITS:
        return all(w >= n for w, n in zip(_FLOAT_BITS[wide], _FLOAT_BITS[narrow]))
    if not narrow.is_integer:
        return False
    signed = narrow.kind == "int"
    if wide in _FLOAT_BITS:
        return narrow.bits - signed <= _FLOAT_BITS[wide][0] and not (wide is F16 and narrow.bits > 8)
    if not wide.is_integer or (signed and wide.kind != "int"):
        return False
    return wide.bits - (wide.kind == "int") >= narrow.bits - signed


def _cast_of_cast(m: Match, b: Builder) -> Any:
    """A cast after one that keeps every value might as well read what was before."""
    x, inner = m["x"], m.node("inner").result
    if not holds(inner.tensor.dtype, x.tensor.dtype):
        return refuse("the first cast changes values", cast=f"{x.tensor.dtype} to {inner.tensor.dtype}")
    return x if same_type(x, m.root.result) else b.op("cast", x, **m.root.attrs)


def _cast_like(m: Match, b: Builder) -> Any:
    if not isinstance(m["like"].type, TensorType):
        return None
    return b.op("cast", m["x"], to=m["like"].tensor.dtype, **m.root.attrs)


INVOLUTIONS = ("neg", "not", "bitwise_not")
IDEMPOTENT = ("abs", "relu", "ceil", "floor", "round", "sign")

RULES = (
    Rule("identity(x) => x", Pattern("identity", "x"), _identity),
    Rule("dropout(x) => x", Pattern("dropout", "x"), _dropout),
    Rule("cast(x) to its own type => x", Pattern("cast", "x"), noop),
    Rule("cast_like(x, y) => cast(x)", Pattern("cast_like", "x", "like"), _cast_like),
    Rule("cast(cast(x)) => cast(x)", Pattern("cast", Pattern("cast", "x", bind="inner")), _cast_of_cast, keeps_inner=True),
    Rule("mul(x, 1) => x", Pattern("mul", "x", "c"), _unit(1.0, commutative=True)),
    Rule("div(x, 1) => x", Pattern("div", "x", "c"), _unit(1.0)),
    Rule("pow(x, 1) => x", Pattern("pow", "x", "c"), _unit(1.0)),
    Rule("add(x, 0) => x", Pattern("add", "x", "c"), _add_zero),
    Rule("sub(x, 0) => x", Pattern("sub", "x", "c"), _sub_zero),
    Rule("div(x, 2^k) => mul(x, 2^-k)", Pattern("div", "x", "c"), _div_by_power_of_two),
    Rule("pow(x, 2) => mul(x, x)", Pattern("pow", "x", "c"), _square),
    Rule("pow(x, 0.5) => sqrt(x)", Pattern("pow", "x", "c"), _square_root),
    Rule("sum(x, y) => add(x, y)", Pattern("sum"), _two_sum),
    *(Rule(f"{f}({f}(x)) => x", Pattern(f, Pattern(f, "x")), _inner_operand, keeps_inner=True) for f in INVOLUTIONS),
    *(Rule(f"{f}({f}(x)) => {f}(x)", Pattern(f, Pattern(f, "x")), _idempotent, keeps_inner=True) for f in IDEMPOTENT),
    Rule("where(c, x, y) => x", Pattern("where"), _where),
    Rule("clip(x) without bounds => x", Pattern("clip", "x"), _dead_clip),
    Rule("clip(clip(x)) => clip(x)", Pattern(("clip", "relu"), Pattern(BOUNDS, bind="inner")), _bounds_of_bounds),
    Rule("min(clip(x), c) => clip(x)", Pattern(("min", "max"), "c", Pattern(BOUNDS, bind="inner")), _bounds_of_bounds),
    *movement.RULES,
    *inline.RULES,
)


@register
@dataclass(frozen=True)
class Canonicalize:
    """Applies the rules of this file, movement.py and inline.py to a fixed point."""

    name: ClassVar[str] = "canonicalize"

    def run(self, module: Module, ctx: Context) -> bool:
        changed = rewrite(module, RULES, ctx.log) > 0
        if changed:
            infer_module(module)
        return changed
