"""Reading a tensor at fractional positions."""

from __future__ import annotations

import itertools

import numpy as np


def take_at(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """x[C, spatial...] at the integer positions index[n, ...]: [C, ...], zero where a position lies outside."""
    sizes = np.array(x.shape[1:], np.int64).reshape((-1,) + (1,) * (index.ndim - 1))
    inside = np.all((index >= 0) & (index < sizes), axis=0)
    if 0 in x.shape[1:]:
        return np.zeros((x.shape[0], *index.shape[1:]), x.dtype)
    safe = np.clip(index, 0, sizes - 1)
    return np.where(inside, x[(slice(None), *safe)], x.dtype.type(0))


def sample_linear(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """x[C, spatial...] at the fractional positions at[n, ...], linear between the 2**n neighbours, which are zero outside."""
    floor = np.floor(at)
    frac, low = at - floor, np.clip(np.nan_to_num(floor), -(1 << 31), 1 << 31).astype(np.int64)
    out = np.zeros((x.shape[0], *at.shape[1:]), np.result_type(x, at))
    for corner in itertools.product((0, 1), repeat=len(at)):
        weight = np.prod([f if bit else 1 - f for f, bit in zip(frac, corner, strict=True)], axis=0)
        out += weight * take_at(x, low + np.array(corner).reshape((-1,) + (1,) * (at.ndim - 1)))
    return out
