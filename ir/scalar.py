"""The scalar-expression language: what an elementwise operator computes for one element.

An operator's function is *traced*: called with `Arg`s in the place of numbers it returns an `Expr`, a typed tree over the
primitives below. One tree gives the numpy reference (`evaluate`), the result's element type (`Expr.dtype`) and, printed by
`kernels/`, the code on each target. Python numbers take the type of the expression they meet.

Semantics, where hardware differs: float `min`/`max` pass NaN on; integer arithmetic wraps; integer `div` truncates towards zero,
`floordiv` rounds down, `x / 0` is 0 for integers and INT_MIN / -1 is INT_MIN; `mod` has the sign of the divisor, `fmod` that of the
dividend; shifts by the width or more give 0 (or the sign for a negative left operand); float to integer casts truncate and
are taken modulo 2^n inside i64, undefined outside; `round` rounds half to even.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import symbols
from .types import BOOL, DType, TensorType, dtype_of

# Primitives by how their result type follows from their operands.
UNARY = frozenset({
    "neg", "abs", "sign", "exp", "log", "log1p", "expm1", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
    "asinh", "acosh", "atanh", "erf", "floor", "ceil", "trunc", "round", "bitnot",
})  # fmt: skip
BINARY = frozenset({
    "add", "sub", "mul", "div", "floordiv", "mod", "fmod", "min", "max", "pow", "bitand", "bitor", "bitxor", "shl", "shr",
})  # fmt: skip
COMPARE = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
LOGIC = frozenset({"and", "or", "xor"})
TEST = frozenset({"isnan", "isinf"})  # of one operand, result bool; "not" likewise
OTHER = frozenset({"arg", "const", "cast", "where", "not"})
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
    "not_equal": "ne", "logical_and": "and", "logical_or": "or", "logical_xor": "xor", "logical_not": "not", "bitwise_and": "bitand",
    "bitwise_or": "bitor", "bitwise_xor": "bitxor", "invert": "bitnot", "left_shift": "shl", "right_shift": "shr", "rint": "round",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
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

    def infer(c: Any) -> TensorType:
        types = [c.t(i) if c.has(i) else None for i in range(len(c.types))]
        try:
            dtype = trace(fn, [None if t is None else t.dtype for t in types], dict(c.attrs)).dtype
        except TypeError as e:
            raise c.error(str(e)) from None
        shape: tuple | None = ()
        for t in types:
            if t is not None:
                shape = None if shape is None or t.shape is None else broadcast_shapes(c, shape, t.shape)
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


# ---- numpy ------------------------------------------------------------------------------------------------------


def numpy_reference(fn: Callable) -> Callable:
    """The numpy reference of an elementwise function: its expression evaluated over whole arrays."""
    accepts = [p.name for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def reference(*operands: np.ndarray | None, **attrs: Any) -> np.ndarray:
        arrays = [None if x is None else np.asarray(x) for x in operands]
        expr = trace(fn, [None if x is None else dtype_of(x) for x in arrays], {k: attrs[k] for k in accepts if k in attrs})
        out = evaluate(expr, arrays)
        shape = np.broadcast_shapes(*(x.shape for x in arrays if x is not None))
        return np.asarray(np.broadcast_to(out, shape), dtype=expr.dtype.np)

    return reference


def elementwise_dims(reference: Callable) -> Callable:
    """Known contents through an elementwise operator on shape arithmetic: the reference itself, over objects where needed."""
    names = {"add": "add", "sub": "subtract", "mul": "multiply"}

    def dims(c: Any) -> np.ndarray | None:
        contents = [c.data(i) for i in range(len(c.types))]
        if any(x is None for x in contents):
            return None
        if all(x.dtype != object for x in contents):
            return None  # plain constants are the folder's work
        if c.op.name in names:
            return _over_dims(getattr(np, names[c.op.name]), contents)
        exact = {"div": symbols.floordiv, "min": symbols.dim_min, "max": symbols.dim_max}.get(c.op.name)
        if exact is None or (c.op.name == "div" and not _nonnegative(contents)):
            return None
        return _over_dims(np.frompyfunc(lambda a, b: exact(a, b), 2, 1), contents) if len(contents) == 2 else None

    return dims


def _over_dims(fn: Callable, contents: list[np.ndarray]) -> np.ndarray | None:
    objects = [_python_ints(x) for x in contents]
    if any(x is None for o in objects for x in o.ravel()):
        return None
    out = np.empty(np.broadcast_shapes(*(o.shape for o in objects)), object)
    out[...] = fn(*objects)
    return out


def _python_ints(x: np.ndarray) -> np.ndarray:
    out = np.empty(x.shape, object)
    out[...] = x.tolist() if x.ndim else x.item()
    return out


def _nonnegative(contents: list[np.ndarray]) -> bool:
    values = [v for x in contents for v in _python_ints(x).ravel()]
    return all(v is not None and isinstance(v, (int, symbols.Dim)) and symbols.bounds(v)[0] >= 0 for v in values) and all(
        symbols.bounds(v)[0] > 0 for v in _python_ints(contents[-1]).ravel()
    )


def evaluate(e: Expr, args: Sequence[np.ndarray | None]) -> np.ndarray:
    """The value of an expression over numpy operands. Equal subtrees are computed once."""
    memo: dict[int, np.ndarray] = {}

    def go(x: Expr) -> np.ndarray:
        if id(x) not in memo:
            memo[id(x)] = _NUMPY_SPECIAL[x.fn](x, go, args) if x.fn in _NUMPY_SPECIAL else _apply(x, [go(a) for a in x.args])
        return memo[id(x)]

    with np.errstate(all="ignore"):
        return go(e)


def _apply(e: Expr, xs: list[np.ndarray]) -> np.ndarray:
    dtype = e.args[0].dtype
    fn = _NUMPY_INT.get(e.fn) if dtype.is_integer else None
    out = (fn or _NUMPY[e.fn])(*xs)
    return out if out.dtype == e.dtype.np else out.astype(e.dtype.np)


def _cast(e: Expr, go: Callable, args: Any) -> np.ndarray:
    return go(e.args[0]).astype(e.dtype.np)


def _int_div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Truncating division that gives 0 for a zero divisor and wraps INT_MIN / -1."""
    safe = np.where(b == 0, np.ones((), b.dtype), b)
    if a.dtype.kind == "u":
        q = a // safe
    else:
        minus = safe == -1
        s2 = np.where(minus, np.ones((), b.dtype), safe)
        q = a // s2
        q = q + ((a % s2 != 0) & ((a < 0) != (s2 < 0))).astype(a.dtype)
        q = np.where(minus, np.negative(a), q)
    return np.where(b == 0, np.zeros((), a.dtype), q).astype(a.dtype)


def _guarded(fn: Callable) -> Callable:
    """floordiv, mod, fmod of integers: 0 for a zero divisor, safe at INT_MIN and -1."""

    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        bad = (b == 0) | ((b == -1) if b.dtype.kind == "i" else np.zeros_like(b, bool))
        out = fn(a, np.where(bad, np.ones((), b.dtype), b))
        if b.dtype.kind == "i":
            out = np.where(b == -1, np.negative(a) if fn is np.floor_divide else np.zeros((), a.dtype), out)
        return np.where(b == 0, np.zeros((), a.dtype), out).astype(a.dtype)

    return run


def _int_pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integer power by squaring, wrapping; a negative exponent gives 1 for a base of 1, ±1 for -1, and 0 else."""
    a, b = np.broadcast_arrays(a, b)
    if b.dtype.kind == "f":
        return np.power(a.astype(np.float64), b).astype(a.dtype)
    out, base, left = np.ones(a.shape, a.dtype), a.copy(), np.maximum(b, 0).astype(np.uint64)
    while np.any(left):
        out = np.where(left & 1, out * base, out)
        base, left = base * base, left >> np.uint64(1)
    if b.dtype.kind == "i":
        odd = np.where(b % 2 != 0, a, np.ones((), a.dtype))
        small = np.where(a == 1, a, np.where(a == -1, odd, np.zeros((), a.dtype))) if a.dtype.kind == "i" else np.where(a == 1, a, 0)
        out = np.where(b < 0, small, out)
    return out.astype(a.dtype)


def _shift(fn: Callable, right: bool) -> Callable:
    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        width = a.dtype.itemsize * 8
        big = (b < 0) | (b >= width) if b.dtype.kind == "i" else b >= width
        out = fn(a, np.where(big, np.zeros((), b.dtype), b))
        fill = np.where(a < 0, -np.ones((), a.dtype), np.zeros((), a.dtype)) if right and a.dtype.kind == "i" else np.zeros((), a.dtype)
        return np.where(big, fill, out).astype(a.dtype)

    return run


# Abramowitz & Stegun would not do for an oracle: the error function comes from the C library.
def _erf(x: np.ndarray) -> np.ndarray:
    import math

    return np.frompyfunc(math.erf, 1, 1)(x.astype(np.float64)).astype(np.float64).astype(x.dtype) if x.size else x


_NUMPY_SPECIAL: dict[str, Callable] = {
    "arg": lambda e, go, args: args[e.value],
    "const": lambda e, go, args: np.asarray(e.value, e.dtype.np),
    "cast": _cast,
    "where": lambda e, go, args: np.where(go(e.args[0]), go(e.args[1]), go(e.args[2])),
}
_NUMPY: dict[str, Callable] = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1,
    "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "erf": _erf,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint, "bitnot": np.invert, "add": np.add, "sub": np.subtract,
    "mul": np.multiply, "div": np.divide, "floordiv": np.floor_divide, "mod": np.mod, "fmod": np.fmod, "min": np.minimum,
    "max": np.maximum, "pow": np.power, "bitand": np.bitwise_and, "bitor": np.bitwise_or, "bitxor": np.bitwise_xor,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not, "isnan": np.isnan, "isinf": np.isinf,
}  # fmt: skip
_NUMPY_INT: dict[str, Callable] = {
    "div": _int_div, "floordiv": _guarded(np.floor_divide), "mod": _guarded(np.mod), "fmod": _guarded(np.fmod), "pow": _int_pow,
    "floor": np.copy, "ceil": np.copy, "trunc": np.copy, "round": np.copy,
    "shl": _shift(np.left_shift, False), "shr": _shift(np.right_shift, True),
}  # fmt: skip
