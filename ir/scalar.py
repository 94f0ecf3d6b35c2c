"""The scalar-expression language: what an elementwise operator computes for one element.

An operator's function is *traced*: called with `Arg`s in the place of numbers it returns an `Expr`, a typed tree over the
primitives below. One tree gives the numpy reference (`scalar_numpy`), shape arithmetic (`scalar_dims`), the result's element
type (`Expr.dtype`) and, printed by `kernels/`, the code on each target. Python numbers take the type of the expression they meet.

Semantics, where hardware differs:
- float `min` and `max` pass NaN on; `round` rounds half to even; `mod` has the sign of the divisor, `fmod` that of the dividend;
- integer arithmetic wraps; integer `div` truncates towards zero, `floordiv` rounds down, `x / 0` is 0, INT_MIN / -1 is INT_MIN;
- shifts by a negative number, or by the width and more, give 0 (-1 for a right shift of a negative left operand);
- casts: float to integer truncates and is taken modulo 2^n inside i64 (u64 up to 2^64), undefined outside; to bool tests for not
  zero; between floats rounds to nearest even and out of range follows the target's own rule (infinity, NaN or its greatest number);
- `bitcast` keeps the bits; types of under 8 bits have theirs in the low bits of a byte.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import symbols
from .types import BF16, BOOL, F16, F32, DType, TensorType

# Primitives by how their result type follows from their operands.
UNARY = frozenset({
    "neg", "abs", "sign", "exp", "log", "log1p", "expm1", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "tanh", "asinh", "acosh", "atanh", "erf", "floor", "ceil", "trunc", "round", "bitnot",
})  # fmt: skip
BINARY = frozenset({
    "add", "sub", "mul", "div", "floordiv", "mod", "fmod", "min", "max", "pow", "bitand", "bitor", "bitxor", "shl", "shr",
})  # fmt: skip
COMPARE = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
LOGIC = frozenset({"and", "or", "xor"})
TEST = frozenset({"isnan", "isinf"})  # of one operand, result bool; "not" likewise
OTHER = frozenset({"arg", "const", "cast", "bitcast", "where", "not"})
PLAIN = (bool, int, float, str, DType)  # attributes that can be told apart by hashing them
PRIMITIVES = UNARY | BINARY | COMPARE | LOGIC | TEST | OTHER


@dataclass(frozen=True, slots=True, eq=False)
class Expr:
    """A node of an expression tree. `value` holds the index of an `arg` or the number of a `const`."""

    fn: str
    args: tuple[Expr, ...]
    dtype: DType
    value: Any = None

    def _with(self, fn: str, other: Any, swap: bool = False) -> Expr:
        b = lift(other, self.dtype)
        return binary(fn, b, self) if swap else binary(fn, self, b)

    def __add__(self, o: Any) -> Expr:
        return self._with("add", o)

    def __radd__(self, o: Any) -> Expr:
        return self._with("add", o, True)

    def __sub__(self, o: Any) -> Expr:
        return self._with("sub", o)

    def __rsub__(self, o: Any) -> Expr:
        return self._with("sub", o, True)

    def __mul__(self, o: Any) -> Expr:
        return self._with("mul", o)

    def __rmul__(self, o: Any) -> Expr:
        return self._with("mul", o, True)

    def __truediv__(self, o: Any) -> Expr:
        return self._with("div", o)

    def __rtruediv__(self, o: Any) -> Expr:
        return self._with("div", o, True)

    def __floordiv__(self, o: Any) -> Expr:
        return self._with("floordiv", o)

    def __mod__(self, o: Any) -> Expr:
        return self._with("mod", o)

    def __pow__(self, o: Any) -> Expr:
        return self._with("pow", o)

    def __and__(self, o: Any) -> Expr:
        return self._with("and" if self.dtype is BOOL else "bitand", o)

    def __or__(self, o: Any) -> Expr:
        return self._with("or" if self.dtype is BOOL else "bitor", o)

    def __xor__(self, o: Any) -> Expr:
        return self._with("xor" if self.dtype is BOOL else "bitxor", o)

    def __lshift__(self, o: Any) -> Expr:
        return self._with("shl", o)

    def __rshift__(self, o: Any) -> Expr:
        return self._with("shr", o)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __abs__(self) -> Expr:
        return unary("abs", self)

    def __invert__(self) -> Expr:
        return Expr("not", (self,), BOOL) if self.dtype is BOOL else unary("bitnot", self)

    def __lt__(self, o: Any) -> Expr:
        return self._with("lt", o)

    def __le__(self, o: Any) -> Expr:
        return self._with("le", o)

    def __gt__(self, o: Any) -> Expr:
        return self._with("gt", o)

    def __ge__(self, o: Any) -> Expr:
        return self._with("ge", o)

    def __eq__(self, o: Any) -> Expr:  # type: ignore[override]
        return self._with("eq", o)

    def __ne__(self, o: Any) -> Expr:  # type: ignore[override]
        return self._with("ne", o)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("an elementwise function cannot branch on an element's value; use where(condition, a, b)")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kw: Any) -> Expr:
        """numpy's functions work on expressions, so that a user's numpy function traces as it stands."""
        name = _UFUNCS.get(ufunc.__name__)
        if name is None or method != "__call__" or kw:
            raise TypeError(f"np.{ufunc.__name__} has no scalar expression; the primitives are {', '.join(sorted(PRIMITIVES))}")
        like = next(x for x in inputs if isinstance(x, Expr))
        lifted = [lift(x, like.dtype) for x in inputs]
        if len(lifted) == 1:
            return test(name, lifted[0]) if name in TEST else ~lifted[0] if name == "not" else unary(name, lifted[0])
        return binary(name, *lifted)

    def __array_function__(self, func: Callable, types: Any, args: tuple, kw: dict) -> Expr:
        if func is np.where and len(args) == 3 and not kw:
            return where(*args)
        if func is np.clip and not kw and len(args) == 3:
            return minimum(maximum(args[0], args[1]), args[2])
        raise TypeError(f"np.{func.__name__} has no scalar expression; the primitives are {', '.join(sorted(PRIMITIVES))}")


_UFUNCS = {
    "negative": "neg", "absolute": "abs", "fabs": "abs", "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div",
    "true_divide": "div", "floor_divide": "floordiv", "remainder": "mod", "fmod": "fmod", "minimum": "min", "maximum": "max",
    "power": "pow", "float_power": "pow", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "equal": "eq",
    "not_equal": "ne", "logical_and": "and", "logical_or": "or", "logical_xor": "xor",
    "logical_not": "not",
    "bitwise_and": "bitand", "bitwise_or": "bitor", "bitwise_xor": "bitxor", "invert": "bitnot", "left_shift": "shl",
    "right_shift": "shr", "rint": "round", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh",
    "arccosh": "acosh", "arctanh": "atanh",
} | {n: n for n in UNARY | TEST}  # fmt: skip


def lift(x: Any, dtype: DType) -> Expr:
    """`x` as an expression; a number becomes a constant of the type that it meets."""
    return x if isinstance(x, Expr) else const(x, dtype)


def const(value: Any, dtype: DType) -> Expr:
    """A number of the given type (rounded to it)."""
    return Expr("const", (), dtype, np.asarray(value).astype(dtype.np)[()])


def arg(i: int, dtype: DType) -> Expr:
    """Operand i of the operator."""
    return Expr("arg", (), dtype, i)


def unary(fn: str, x: Expr) -> Expr:
    return Expr(fn, (x,), x.dtype)


def test(fn: str, x: Expr) -> Expr:
    return Expr(fn, (x,), BOOL)


def binary(fn: str, a: Expr, b: Expr) -> Expr:
    if a.dtype is not b.dtype and fn != "pow":
        raise TypeError(f"{fn} of {a.dtype} and {b.dtype}: the element types must be equal; use cast")
    return Expr(fn, (a, b), BOOL if fn in COMPARE or fn in LOGIC else a.dtype)


def where(cond: Any, a: Any, b: Any) -> Expr:
    """a where cond is true, else b."""
    like = a if isinstance(a, Expr) else b if isinstance(b, Expr) else None
    if like is None:
        raise TypeError("where needs an expression among its two values; use const(value, dtype)")
    a, b = lift(a, like.dtype), lift(b, like.dtype)
    if a.dtype is not b.dtype:
        raise TypeError(f"where of {a.dtype} and {b.dtype}: the element types must be equal; use cast")
    return Expr("where", (lift(cond, BOOL), a, b), a.dtype)


def cast(x: Expr, dtype: DType) -> Expr:
    """x converted to another element type."""
    return x if x.dtype is dtype else Expr("cast", (x,), dtype)


def bitcast(x: Expr, dtype: DType) -> Expr:
    """The bits of x read as another element type of the same width. Raises TypeError where the widths differ."""
    if x.dtype.bits != dtype.bits:
        raise TypeError(f"bitcast of {x.dtype} to {dtype}: expected types of equal width, got {x.dtype.bits} and {dtype.bits} bits")
    return x if x.dtype is dtype else Expr("bitcast", (x,), dtype)


def widen(x: Expr) -> Expr:
    """x in f32 where it is f16 or bf16, else x: what compound formulas are computed in, so that they round once."""
    return cast(x, F32) if x.dtype in (F16, BF16) else x


def minimum(a: Any, b: Any) -> Expr:
    like = a if isinstance(a, Expr) else b
    return binary("min", lift(a, like.dtype), lift(b, like.dtype))


def maximum(a: Any, b: Any) -> Expr:
    like = a if isinstance(a, Expr) else b
    return binary("max", lift(a, like.dtype), lift(b, like.dtype))


def fmod(a: Any, b: Any) -> Expr:
    like = a if isinstance(a, Expr) else b
    return binary("fmod", lift(a, like.dtype), lift(b, like.dtype))


def call(fn: str, x: Expr) -> Expr:
    """The unary primitive `fn` of x: call("exp", x)."""
    if fn not in UNARY and fn not in TEST:
        raise TypeError(f"{fn} is no unary primitive")
    return test(fn, x) if fn in TEST else unary(fn, x)


def postorder(e: Expr) -> list[Expr]:
    """The parts of an expression, each once and behind those that it is made of. Without recursion: a sum of thousands is deep."""
    out: dict[Expr, None] = {}
    stack = [e]
    while stack:
        x = stack[-1]
        missing = [a for a in x.args if a not in out]
        if missing:
            stack += reversed(missing)
        else:
            out[stack.pop()] = None
    return list(out)


# ---- tracing ----------------------------------------------------------------------------------------------------


def trace(fn: Callable, dtypes: Sequence[DType | None], attrs: dict[str, Any]) -> Expr:
    """The expression of an elementwise function for operands of these element types (None: left out)."""
    args = [None if d is None else arg(i, d) for i, d in enumerate(dtypes)]
    out = fn(*args, **attrs)
    if not isinstance(out, Expr):
        like = next(d for d in dtypes if d is not None)
        out = const(out, like)
    return out


def infer_elementwise(fn: Callable) -> Callable:
    """The `infer` of an elementwise operator: broadcast shape, the expression's element type, the common layout."""

    @functools.lru_cache(maxsize=64, typed=True)
    def known(dtypes: tuple[DType | None, ...], /, **attrs: Any) -> DType:
        return trace(fn, dtypes, attrs).dtype

    def infer(c: Any) -> TensorType:
        types = [c.t(i) if c.has(i) else None for i in range(len(c.types))]
        dtypes = tuple([None if t is None else t.dtype for t in types])
        try:
            plain = all(a is None or isinstance(a, PLAIN) for a in c.attrs.values())
            dtype = known(dtypes, **c.attrs) if plain else trace(fn, dtypes, dict(c.attrs)).dtype
        except TypeError as e:
            raise c.error(str(e)) from None
        shape: tuple | None = ()
        for t in types:
            if t is not None and t.shape != shape:
                if not shape:  # () meets any other shape, or nothing is known
                    shape = t.shape if shape is not None else None
                else:
                    shape = None if t.shape is None else broadcast_shapes(c, shape, t.shape)
        layouts = {t.layout for t in types if t is not None and shape is not None and t.rank == len(shape)}
        return TensorType(dtype, shape, layouts.pop() if len(layouts) == 1 else None)

    return infer


def broadcast_shapes(c: Any, a: tuple, b: tuple) -> tuple:
    """numpy's broadcasting of two shapes of int | Dim; `c.error` makes the error."""
    n = max(len(a), len(b))
    a2, b2 = (1,) * (n - len(a)) + a, (1,) * (n - len(b)) + b
    try:
        return tuple(symbols.broadcast(x, y) for x, y in zip(a2, b2, strict=True))
    except ValueError:
        show = [f"[{','.join(map(str, s))}]" for s in (a, b)]
        raise c.error(f"shapes {show[0]} and {show[1]} do not broadcast; expected equal dims, or 1, aligned at the right") from None
