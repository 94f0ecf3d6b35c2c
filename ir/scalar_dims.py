"""Scalar expressions over ints and dims: what shape arithmetic knows of an elementwise operator's result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from . import symbols
from .scalar import COMPARE, Expr, postorder, trace
from .types import BOOL, TensorType


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
        if math.prod(shape) > MAX_KNOWN:
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
        sizes = [d for d in t.shape or () if isinstance(d, int)]
        if t.shape is None or len(sizes) != len(t.shape) or math.prod(sizes) > MAX_KNOWN:
            return None
        return np.full(sizes, None, object)
    return contents.astype(object) if contents.size <= MAX_KNOWN else None


def _known(e: Expr, args: Sequence[Any]) -> Any:
    """The value of an expression over int | bool | Dim | None, None where it is not known."""
    values: dict[int, Any] = {}
    for part in postorder(e):
        values[id(part)] = _known_part(part, [values[id(x)] for x in part.args], args)
    return values[id(e)]


def _known_part(e: Expr, xs: Sequence[Any], args: Sequence[Any]) -> Any:
    """The value of one operation on known values."""
    if not (e.dtype.is_integer or e.dtype is BOOL):
        return None
    if e.fn == "arg":
        return args[e.value]
    if e.fn == "const":
        return e.value.item()
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
    """A division of nonnegative by positive, where rounding down and rounding towards zero are one."""
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
    "and": lambda a, b: bool(a and b), "or": lambda a, b: bool(a or b), "xor": lambda a, b: bool(a) != bool(b),
    "not": lambda a: not a,
}  # fmt: skip
_KNOWN |= {how: partial(_compare, how=how) for how in COMPARE}
