"""Reading a tensor at fractional positions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from ..limits import claim
from ..types import dtype_of

TAPS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}


def real(x: np.ndarray) -> np.ndarray:
    """x in the type that it is interpolated in: f64 for integers, at least f32 for floats."""
    d = dtype_of(x)
    if d.is_integer or d.kind == "bool":
        return x.astype(np.float64)
    return x.astype(np.float32) if d.is_float and d.bits < 32 else x


def narrow(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Interpolated values in the given type: integers are cut off, what they cannot hold becomes their limit."""
    if dtype.kind in "iu" and y.dtype.kind == "f":
        info = np.iinfo(dtype)
        y = np.clip(np.trunc(y), info.min, info.max)
    return y.astype(dtype)


def cubic_filter(t: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys's kernel (Cubic convolution interpolation, 1981, equation 4)."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def take_at(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """x[C, spatial...] at the integer positions index[n, ...]: [C, ...], zero where a position lies outside."""
    zero = "" if x.dtype == object else x.dtype.type(0)
    if 0 in x.shape[1:]:
        return np.full((x.shape[0], *index.shape[1:]), zero, x.dtype)
    sizes = np.array(x.shape[1:], np.int64).reshape((-1,) + (1,) * (index.ndim - 1))
    inside = np.all((index >= 0) & (index < sizes), axis=0)
    return np.where(inside, x[(slice(None), *np.clip(index, 0, sizes - 1))], zero)


def sample(x: np.ndarray, at: np.ndarray, mode: str = "linear",
           settle: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:  # fmt: skip
    """x[C, spatial...] at the fractional positions at[n, ...] -> [C, ...]: nearest (ties to even), linear or cubic.

    `settle` brings integer positions back inside; what it leaves outside is zero.
    """
    claim(8 * at.size * (3 + len(TAPS[mode])) + 3 * x.itemsize * x.shape[0] * (at.size // max(len(at), 1)))
    floor = np.rint(at) if mode == "nearest" else np.floor(at)
    low = np.clip(np.nan_to_num(floor), -(1 << 31), 1 << 31).astype(np.int64)
    settle = settle or (lambda index: index)
    if mode == "nearest":
        return take_at(x, settle(low))
    fraction = at - floor
    weigh = cubic_filter if mode == "cubic" else lambda t: 1 - np.abs(t)
    weights = {tap: weigh(tap - fraction) for tap in TAPS[mode]}
    out = np.zeros((x.shape[0], *at.shape[1:]), x.dtype)
    for taps in itertools.product(TAPS[mode], repeat=len(at)):
        weight = np.prod([weights[tap][axis] for axis, tap in enumerate(taps)], axis=0)
        out += weight.astype(at.dtype) * take_at(x, settle(low + np.array(taps).reshape((-1,) + (1,) * (at.ndim - 1))))
    return out
