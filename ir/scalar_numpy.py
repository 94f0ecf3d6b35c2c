"""Scalar expressions over numpy arrays: the reference of every elementwise operator, exact where `scalar` says how."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .scalar import Expr, postorder, trace
from .types import BOOL, DType, dtype_of


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


def evaluate(e: Expr, args: Sequence[np.ndarray | None]) -> np.ndarray:
    """The value of an expression over numpy operands. Equal subtrees are computed once, and dropped when nobody needs them more."""
    parts = postorder(e)
    readers = Counter([a for x in parts for a in x.args])
    values: dict[Expr, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for x in parts:
            xs = [values[a] for a in x.args]
            values[x] = _NUMPY_SPECIAL[x.fn](x, xs, args) if x.fn in _NUMPY_SPECIAL else _apply(x, xs)
            for a in x.args:
                readers[a] -= 1
                if not readers[a]:
                    del values[a]
    return values[e]


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
        inverse = np.where(a == 1, a, np.zeros((), a.dtype))
        out = np.where(b < 0, np.where(a == -1, odd, inverse) if a.dtype.kind == "i" else inverse, out)
    return out.astype(a.dtype)


def _shift(fn: Callable, right: bool) -> Callable:
    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        width = a.dtype.itemsize * 8
        big = (b < 0) | (b >= width) if b.dtype.kind == "i" else b >= width
        out = fn(a, np.where(big, np.zeros((), b.dtype), b))
        fill = -(a < 0).astype(a.dtype) if right and a.dtype.kind == "i" else np.zeros((), a.dtype)
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
_TAIL_Q = (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
           6.05183413124413191e-2, 2.33520497626869185e-3)  # fmt: skip


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
    "arg": lambda e, xs, args: args[e.value],
    "const": lambda e, xs, args: np.asarray(e.value, e.dtype.np),
    "cast": lambda e, xs, args: convert(xs[0], e.dtype),
    "bitcast": lambda e, xs, args: reinterpret(xs[0], e.dtype),
    "where": lambda e, xs, args: np.where(*xs),
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
