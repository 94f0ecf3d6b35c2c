"""Arrays and streams of other libraries on a CUDA device."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..ir.errors import InputError
from ..kernels.cuda.driver import Driver
from .foreign import Pointed, pointed

LEGACY_STREAM = 1  # the default stream, as the array interface and DLPack number it
ON_CUDA = (2, 13)  # DLPack's kinds of devices: CUDA, and memory that it manages


def on_device(x: Any, driver: Driver, what: str, ordered: bool) -> Pointed | None:
    """What DLPack or CUDA's array interface tells of an array; None where it is none of the device's. Unless that is `ordered`
    already, what the driver is asked for from now on comes after what makes it. Raises InputError, in which `what` names it."""
    kind, number = x.__dlpack_device__() if hasattr(x, "__dlpack_device__") else (None, 0)
    if kind in ON_CUDA:
        if kind == ON_CUDA[0] and number != driver.dlpack[1]:
            raise InputError(f"{what} lies on CUDA device {number}, expected {driver.dlpack[1]}; copy it there")
        return pointed(x, -1 if ordered else driver.stream or -1, what)
    if not hasattr(x, "__cuda_array_interface__"):
        return None
    about = x.__cuda_array_interface__
    if about.get("mask") is not None:
        raise InputError(f"{what}: a masked array on the device, expected a plain one")
    # Before version 3 nobody said on which stream an array is made: mostly it is the default one.
    stream = about.get("stream", LEGACY_STREAM if about["version"] < 3 else None)
    if stream is not None and not ordered:
        driver.wait(stream)
    address, read_only = about["data"]
    return Pointed(x, address, tuple(about["shape"]), about.get("strides"), np.dtype(about["typestr"]), not read_only)


def stream_number(stream: Any) -> int:
    """The handle of a CUDA stream of CuPy, PyTorch, Numba, or whatever has `__cuda_stream__`; or of a handle. Raises InputError."""
    found = stream
    if hasattr(stream, "__cuda_stream__"):
        found = stream.__cuda_stream__
        found = (found() if callable(found) else found)[1]
    else:
        name = next((n for n in ("cuda_stream", "ptr", "handle") if hasattr(stream, n)), None)
        found = stream if name is None else getattr(stream, name)
    try:
        return operator.index(getattr(found, "value", found) or LEGACY_STREAM)
    except TypeError:
        raise InputError(f"stream is a {type(stream).__name__}, expected a CUDA stream or its handle") from None
