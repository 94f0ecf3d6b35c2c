"""Whether two ways of computing the same agree."""

from __future__ import annotations

import numpy as np

from ..ir.types import BF16, F16, F64, DType


def tolerance(dtype: DType, precision: str) -> float:
    """How far floats of equal worth may be apart, as a part of the values, where they are stored as `dtype` and products are
    computed in a `precision`."""
    if dtype is F64:
        return 1e-9
    return {F16: 2.0**-7, BF16: 2.0**-4}.get(dtype, 2.0**-7 if precision == "tf32" else 1e-4)


def disagreement(got: np.ndarray, want: np.ndarray, within: float) -> tuple[np.ndarray, float]:
    """By how much those elements differ that are further apart than allowed, and how large those wanted are on the average. NaNs
    agree with each other, infinities with equal ones."""
    with np.errstate(all="ignore"):
        finite = np.abs(want[np.isfinite(want)])
        about = float(finite.mean()) if finite.size else 0.0
        apart = np.abs(got - want)
        good = (apart <= within * (np.abs(want) + about)) | (got == want) | (np.isnan(got) & np.isnan(want))
    return apart[~good], about
