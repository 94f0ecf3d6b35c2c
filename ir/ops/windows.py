"""Windows that slide over spatial axes: how convolutions and pools are padded, and how a tensor is cut into windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..limits import claim, tick
from ..op import InferContext
from ..shapes import window_out
from ..symbols import DimLike, ceildiv, dim_max, dim_min, floordiv

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Windows:
    """Windows over spatial axes: one entry an axis. `begin` and `end` are the padding, `out` counts the windows."""

    kernel: tuple
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple
    end: tuple
    out: tuple

    @property
    def span(self) -> tuple[int, ...]:
        """How far all windows reach, from the first element of the padding."""
        axes = zip(self.kernel, self.strides, self.dilations, self.out, strict=True)
        return tuple((o - 1) * s + (k - 1) * d + 1 if o else 0 for k, s, d, o in axes)

    def taps(self) -> Iterator[tuple[int, ...]]:
        """The positions inside a window, row-major."""
        for i in range(math.prod(self.kernel)):
            tick()
            tap = []
            for k in reversed(self.kernel):
                i, at = divmod(i, k)
                tap.append(at)
            yield tuple(reversed(tap))

    def at(self, tap: Sequence[int]) -> tuple[slice, ...]:
        """Where the elements at position `tap` of all windows lie in the padded spatial axes."""
        return tuple(
            slice(t * d, t * d + (o - 1) * s + 1 if o else t * d, s)
            for t, d, s, o in zip(tap, self.dilations, self.strides, self.out, strict=True)
        )

    def padded(self, x: np.ndarray, fill: float = 0) -> np.ndarray:
        """`x` with its trailing axes padded by `fill` far enough for every window (ceil_mode reaches beyond `end`)."""
        lead = x.ndim - len(self.kernel)
        ends = (max(0, n - size - b) for n, size, b in zip(self.span, x.shape[lead:], self.begin, strict=True))
        pads = [(0, 0)] * lead + list(zip(self.begin, ends, strict=True))
        claim(x.itemsize * math.prod(n + b + e for n, (b, e) in zip(x.shape, pads, strict=True)))
        return x if not any(map(any, pads)) else np.pad(x, pads, constant_values=fill)

    def view(self, padded: np.ndarray, tap: Sequence[int]) -> np.ndarray:
        """The elements at position `tap` of all windows over padded[..., spatial...]: [..., out...]."""
        index: tuple[Any, ...] = (..., *self.at(tap))
        return padded[index]

    def reduce(self, ufunc: np.ufunc, padded: np.ndarray) -> np.ndarray:
        """`ufunc` over the elements of every window of padded[..., spatial...]: [..., out...]."""
        views = (self.view(padded, tap) for tap in self.taps())
        out = next(views).copy()
        for view in views:
            ufunc(out, view, out=out)
        return out

    def columns(self, padded: np.ndarray, first: int = 0, count: int | None = None) -> np.ndarray:
        """The windows over padded[A, spatial...] (see `padded`) as an array [A, taps, out...].

        `first` and `count` cut a range out of the first spatial axis of `out`.
        """
        stop = self.out[0] if count is None else first + count
        cols = np.empty((padded.shape[0], math.prod(self.kernel), stop - first, *self.out[1:]), padded.dtype)
        for i, tap in enumerate(self.taps()):
            cols[:, i] = self.view(padded, tap)[:, first:stop]
        return cols


def make_windows(spatial: Sequence[DimLike], kernel: Sequence[DimLike], *, auto_pad: str = "NOTSET", pads: Sequence[int] = (),
                 strides: Sequence[int] = (), dilations: Sequence[int] = (), ceil_mode: bool = False) -> Windows:  # fmt: skip
    """The windows over `spatial` by ONNX's rules; sizes may be symbolic.

    Empty attributes mean strides and dilations of 1 and no pads. With `ceil_mode` a window may reach beyond the padding but
    never starts there. Raises ValueError for attributes that do not fit.
    """
    n = len(spatial)
    strides, dilations = tuple(strides) or (1,) * n, tuple(dilations) or (1,) * n
    pads = tuple(pads) if pads and auto_pad == "NOTSET" else (0,) * (2 * n)
    given = {"kernel_shape": (kernel, n, 1), "strides": (strides, n, 1), "dilations": (dilations, n, 1)}
    given["pads"] = (pads, 2 * n, 0)
    for name, (value, count, least) in given.items():
        if len(value) != count:
            raise ValueError(f"{name} = {list(value)} has {len(value)} entries, expected {count} for {n} spatial axes")
        if any(isinstance(v, int) and v < least for v in value):
            raise ValueError(f"{name} = {list(value)}, expected numbers of at least {least}")
    if auto_pad not in AUTO_PADS:
        raise ValueError(f"auto_pad = {auto_pad!r}, expected one of {', '.join(AUTO_PADS)}")
    begin, end, out = [], [], []
    for size, k, s, d, b, e in zip(spatial, kernel, strides, dilations, pads[:n], pads[n:], strict=True):
        if auto_pad.startswith("SAME"):
            o = ceildiv(size, s)
            total = dim_max((o - 1) * s + (k - 1) * d + 1 - size, 0)
            half = floordiv(total, 2)
            b, e = (half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half)
        else:
            o = window_out(size, k, s, d, b + e, ceil_mode)
            if ceil_mode:
                o = dim_max(dim_min(o, ceildiv(size + b, s)), 0)
        begin.append(b)
        end.append(e)
        out.append(o)
    return Windows(tuple(kernel), strides, dilations, tuple(begin), tuple(end), tuple(out))


def infer_windows(c: InferContext, spatial: Sequence[DimLike], kernel: Sequence[DimLike], ceil_mode: bool = False) -> Windows:
    """`make_windows` from an operator's attributes auto_pad, pads, strides and dilations."""
    attrs = {name: c.attrs[name] for name in ("auto_pad", "pads", "strides", "dilations") if name in c.attrs}
    try:
        return make_windows(spatial, kernel, ceil_mode=ceil_mode, **attrs)
    except ValueError as e:
        raise c.error(str(e)) from None


def scatter_windows(cols: np.ndarray, w: Windows, size: Sequence[int]) -> np.ndarray:
    """The adjoint of `columns`: sums cols[A, taps, windows...] into [A, size...]; what falls outside of `size` is dropped."""
    shape = (cols.shape[0], *(max(n, b + m) for n, b, m in zip(w.span, w.begin, size, strict=True)))
    claim(cols.itemsize * math.prod(shape))
    full = np.zeros(shape, cols.dtype)
    for i, tap in enumerate(w.taps()):
        w.view(full, tap)[...] += cols[:, i]
    return full[(slice(None), *(slice(b, b + m) for b, m in zip(w.begin, size, strict=True)))]
