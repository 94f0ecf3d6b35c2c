"""The scalar-expression language: what an elementwise operator computes for one element.

An operator's function is *traced*: called with `Arg`s in the place of numbers it returns an `Expr`, a typed tree over the
primitives below. One tree gives the numpy reference (`evaluate`), the result's element type (`Expr.dtype`) and, printed by
`kernels/`, the code on each target. Python numbers take the type of the expression they meet.

Semantics, where hardware differs: float `min`/`max` pass NaN on; integer arithmetic wraps; integer `div` truncates towards zero,
`floordiv` rounds down, `x / 0` is 0 for integers and INT_MIN / -1 is INT_MIN; `mod` has the sign of the divisor, `fmod` that of the
dividend; shifts by a negative number, the width or more give 0 (or the sign for a right shift of a negative left operand); float to integer
casts truncate and are taken modulo 2^n inside i64, undefined outside (u64 up to 2^64); casts to bool test for not zero; casts between
floats round to nearest even and follow the target's own rule (infinity, NaN or its greatest number) where out of range; `bitcast`
keeps the bits (types of under 8 bits have theirs in the low bits of a byte); `round` rounds half to even.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import symbols
from .types import BF16, BOOL, F16, F32, DType, TensorType, dtype_of

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
OTHER = frozenset({"arg", "const", "cast", "bitcast", "where", "not"})
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


def elementwise_dims(fn: Callable) -> Callable:
    """Known contents through an elementwise operator on shape arithmetic: its expression, entry by entry, over ints and dims.

    An entry is None where it is not known; the whole is None where no entry is, or the tensors are not small integers.
    """

    def dims(c: Any) -> np.ndarray | None:
        types = [c.types[i] if c.has(i) else None for i in range(len(c.types))]
        contents = [c.data(i) for i in range(len(types))]
        if not any(x is not None and x.dtype == object for x in contents):
            return None  # plain constants are the folder's work
        args = [None if t is None else _entries(t, x) for t, x in zip(types, contents, strict=True)]
        if any(t is not None and a is None for t, a in zip(types, args, strict=True)):
            return None
        expr = trace(fn, [None if t is None else t.dtype for t in types], dict(c.attrs))
        shape = np.broadcast_shapes(*(a.shape for a in args if a is not None))
        if np.prod(shape) > MAX_KNOWN:
            return None
        out = np.empty(shape, object)
        flat = [None if a is None else np.broadcast_to(a, shape).ravel() for a in args]
        for i in range(out.size):
            out.reshape(-1)[i] = _known(expr, [None if f is None else f[i] for f in flat])
        return out if any(x is not None for x in out.ravel()) else None

    return dims


MAX_KNOWN = 1024  # a larger tensor is no shape arithmetic


def _entries(t: TensorType, contents: np.ndarray | None) -> np.ndarray | None:
    """The contents as an object array; entries are None where nothing is known. None for a type without a small static shape."""
    if contents is None:
        if not t.is_static or np.prod(t.shape) > MAX_KNOWN:
            return None
        return np.full(t.shape, None, object)
    return contents.astype(object) if contents.size <= MAX_KNOWN else None


def _known(e: Expr, args: Sequence[Any]) -> Any:
    """The value of an expression over int | bool | Dim | None, None where it is not known."""
    if not (e.dtype.is_integer or e.dtype is BOOL):
        return None
    if e.fn == "arg":
        return args[e.value]
    if e.fn == "const":
        return e.value.item()
    xs = [_known(x, args) for x in e.args]
    if e.fn == "where":
        return None if xs[0] is None else xs[1] if xs[0] else xs[2]
    if any(x is None for x in xs) or e.fn not in _KNOWN:
        return None
    out = _KNOWN[e.fn](*xs)
    if e.dtype is BOOL:
        return _compare(out, 0, "ne") if e.fn == "cast" else out
    if isinstance(out, symbols.Dim) or out is None:
        return out
    bits = e.dtype.bits
    lo = 0 if e.dtype.kind == "uint" else -(1 << bits - 1)
    return int(out) if lo <= out < lo + (1 << bits) else None


def _compare(a: Any, b: Any, how: str) -> bool | None:
    """A comparison that the ranges of the symbols decide, else None."""
    lo, hi = symbols.bounds(a - b)
    yes, no = {
        "lt": (hi < 0, lo >= 0), "le": (hi <= 0, lo > 0), "gt": (lo > 0, hi <= 0), "ge": (lo >= 0, hi < 0),
        "eq": (lo == hi == 0, lo > 0 or hi < 0), "ne": (lo > 0 or hi < 0, lo == hi == 0),
    }[how]  # fmt: skip
    return True if yes else False if no else None


def _known_div(a: Any, b: Any, fn: Callable) -> Any:
    """A division of nonnegative by positive, where rounding down and towards zero are one; constants of any sign are the folder's."""
    return fn(a, b) if symbols.bounds(a)[0] >= 0 and symbols.bounds(b)[0] > 0 else None


def _known_abs(a: Any) -> Any:
    lo, hi = symbols.bounds(a)
    return a if lo >= 0 else -a if hi <= 0 else None


_KNOWN: dict[str, Callable] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "neg": lambda a: -a, "abs": _known_abs,
    "min": symbols.dim_min, "max": symbols.dim_max, "cast": lambda a: a,
    "floor": lambda a: a, "ceil": lambda a: a, "round": lambda a: a, "trunc": lambda a: a,
    "div": lambda a, b: _known_div(a, b, symbols.floordiv), "fmod": lambda a, b: _known_div(a, b, symbols.mod),
    "floordiv": lambda a, b: _known_div(a, b, symbols.floordiv), "mod": lambda a, b: _known_div(a, b, symbols.mod),
    "and": lambda a, b: bool(a and b), "or": lambda a, b: bool(a or b), "xor": lambda a, b: bool(a) != bool(b), "not": lambda a: not a,
} | {how: lambda a, b, how=how: _compare(a, b, how) for how in COMPARE}  # fmt: skip


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
    out = np.asarray((fn or _NUMPY[e.fn])(*xs))
    return out if out.dtype == e.dtype.np else out.astype(e.dtype.np)


def convert(x: np.ndarray, to: DType) -> np.ndarray:
    """`x` in another element type by the rules of the `cast` primitive (see the module's text)."""
    src = dtype_of(x)
    if src is to:
        return x
    if to is BOOL:
        return (x.astype(np.float32) if src.is_float and src.bits < 32 else x).astype(bool)
    if src.is_float and src.bits < 32:
        x = x.astype(np.float32)
    elif src.is_integer and src.bits < 8:
        x = x.astype(np.int8 if src.kind == "int" else np.uint8)
    if not to.is_integer:
        return x.astype(to.np)
    if src.is_float:
        near = x.astype(np.int64)
        x = np.where(x < 0, near.view(np.uint64), x.astype(np.uint64)) if to.name == "u64" else near
    if to.bits < 8:  # ml_dtypes masks signed bytes to the width
        return x.astype(np.int8).astype(to.np)
    return x.astype(to.np)


def reinterpret(x: np.ndarray, to: DType) -> np.ndarray:
    """The bits of `x` as another element type of the same width."""
    if to.bits < 8:
        return (np.ascontiguousarray(x).view(np.uint8) & (2**to.bits - 1)).astype(np.uint8).view(to.np)
    x = np.ascontiguousarray(x).reshape(x.shape)
    return x.view(np.uint8) != 0 if to is BOOL else x.view(to.np)


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


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Float power; an exponent of another type is met in f64."""
    return np.power(a, b) if a.dtype == b.dtype else np.power(a.astype(np.float64), b.astype(np.float64)).astype(a.dtype)


# Numerators and denominators, highest power first, of the rational approximations of W. J. Cody, "Rational Chebyshev approximations
# for the error function", Mathematics of Computation 23 (1969): erf on [0, 0.46875], erfc on (0.46875, 4] and on (4, inf).
_ERF_P = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3)
_ERF_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_ERFC_P = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1, 2.98635138197400131e2,
           8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3)  # fmt: skip
_ERFC_Q = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
           3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
_TAIL_P = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
           1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_TAIL_Q = (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2, 2.33520497626869185e-3)


def _erf(x: np.ndarray) -> np.ndarray:
    """The error function, computed in f64 (error below 4e-16) and rounded to the operand's type."""
    wide = np.asarray(x, np.float64)
    y = np.abs(wide)
    out = np.where(np.isnan(y), y, 1.0)  # erf is 1 to the last bit from 6 on
    near, middle, far = y <= 0.46875, (y > 0.46875) & (y <= 4), (y > 4) & (y < 6)
    z = y[near] ** 2
    out[near] = y[near] * np.polyval(_ERF_P, z) / np.polyval(_ERF_Q, z)
    m = y[middle]
    out[middle] = 1 - np.exp(-m * m) * np.polyval(_ERFC_P, m) / np.polyval(_ERFC_Q, m)
    f = y[far]
    z = 1 / (f * f)
    tail = z * np.polyval(_TAIL_P, z) / np.polyval(_TAIL_Q, z)
    out[far] = 1 - np.exp(-f * f) * (0.5641895835477563 - tail) / f  # 1/sqrt(pi)
    return np.copysign(out, wide).astype(x.dtype)


_NUMPY_SPECIAL: dict[str, Callable] = {
    "arg": lambda e, go, args: args[e.value],
    "const": lambda e, go, args: np.asarray(e.value, e.dtype.np),
    "cast": lambda e, go, args: convert(go(e.args[0]), e.dtype),
    "bitcast": lambda e, go, args: reinterpret(go(e.args[0]), e.dtype),
    "where": lambda e, go, args: np.where(go(e.args[0]), go(e.args[1]), go(e.args[2])),
}
_NUMPY: dict[str, Callable] = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1,
    "sqrt": np.sqrt, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "erf": _erf,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint, "bitnot": np.invert, "add": np.add, "sub": np.subtract,
    "mul": np.multiply, "div": np.divide, "floordiv": np.floor_divide, "mod": np.mod, "fmod": np.fmod, "min": np.minimum,
    "max": np.maximum, "pow": _pow, "bitand": np.bitwise_and, "bitor": np.bitwise_or, "bitxor": np.bitwise_xor,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not, "isnan": np.isnan, "isinf": np.isinf,
}  # fmt: skip
_NUMPY_INT: dict[str, Callable] = {
    "div": _int_div, "floordiv": _guarded(np.floor_divide), "mod": _guarded(np.mod), "fmod": _guarded(np.fmod), "pow": _int_pow,
    "floor": np.copy, "ceil": np.copy, "trunc": np.copy, "round": np.copy,
    "shl": _shift(np.left_shift, False), "shr": _shift(np.right_shift, True),
}  # fmt: skip
