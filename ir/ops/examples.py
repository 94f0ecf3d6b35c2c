"""Small deterministic arrays for the operators' `examples`."""

from __future__ import annotations

import numpy as np


def rand(*shape: int, dtype: object = np.float32, seed: int = 0, lo: float = -2.0, hi: float = 2.0) -> np.ndarray:
    """Uniform numbers in [lo, hi) (integers for integer dtypes, coin flips for bool)."""
    r, d = np.random.default_rng((seed, *shape)), np.dtype(dtype)  # type: ignore[call-overload]
    if d.kind == "b":
        return r.integers(0, 2, shape).astype(bool)
    if d.kind in "iu":
        return r.integers(max(int(lo), 0) if d.kind == "u" else int(lo), max(int(hi), 2), shape).astype(d)
    return r.uniform(lo, hi, shape).astype(d)


def f32(values: object) -> np.ndarray:
    """Numbers (a list, perhaps nested) as f32."""
    return np.asarray(values, np.float32)
