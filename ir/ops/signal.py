"""Fourier transforms, windows and the mel scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..limits import claim
from ..op import Example, InferContext, Onnx, OnnxCall, dtype_attrs, ex, op
from ..shapes import window_out
from ..symbols import DimLike, dim_max, floordiv
from ..types import F32, F64, FLOATS, I32, I64, DType, TensorType
from .common import expect_rank, expect_shape, same_dtype, wide
from .examples import rand

LENGTHS = frozenset({I32, I64})


def _scalar(c: InferContext, i: int) -> DimLike | None:
    """The known contents of a scalar operand; None where absent or unknown."""
    known = c.ints(i) if c.has(i) else None
    return known[0] if known else None


def _number(x: np.ndarray) -> int:
    return int(np.asarray(x).reshape(()))


def _complex(x: np.ndarray) -> np.ndarray:
    """x[..., 1 | 2] as complex numbers [...]."""
    x = wide(x)
    kind = np.result_type(x.dtype, np.complex64)
    return x[..., 0] + x[..., 1] * kind.type(1j) if x.shape[-1] == 2 else x[..., 0].astype(kind)


def _pairs(z: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """z[...] as real and imaginary parts [..., 2]."""
    return np.stack([z.real, z.imag], axis=-1).astype(dtype)


# ---- dft --------------------------------------------------------------------------------------------------------


def infer_dft(c: InferContext) -> TensorType:
    expect_rank(c, 0, at_least=2)
    x = c.shape(0)
    if x is None:
        return c.t(0)
    rank = len(x)
    inverse, onesided = c.attr("inverse"), c.attr("onesided")
    if isinstance(x[-1], int) and x[-1] not in (1, 2):
        raise c.error(f"input x has shape {c.t(0)}, expected a last dimension of 1 (real) or 2 (complex)")
    if onesided and x[-1] == (1 if inverse else 2):
        raise c.error(f"onesided = 1 and inverse = {inverse} on {c.t(0)}, expected {'complex' if inverse else 'real'} input")
    out = [*x[:-1], 1 if onesided and inverse else 2]
    axis = -2 if not c.has(2) else _scalar(c, 2)
    if axis is None:
        changes = c.has(1) or onesided
        return c.t(0).with_(shape=(*(c.symbol() for _ in x[:-1]), out[-1]) if changes else tuple(out))
    if not isinstance(axis, int) or axis % rank == rank - 1:
        raise c.error(f"axis = {axis}, expected one of the signal's, not the last one")
    at = c.axis(axis, rank)
    length = dim_max(2 * (x[at] - 1), 0) if inverse and onesided else x[at]
    if c.has(1):
        known = _scalar(c, 1)
        length = c.symbol() if known is None else known
    out[at] = floordiv(length, 2) + 1 if onesided and not inverse else length
    return c.t(0).with_(shape=tuple(out))


def _axis_to_input(call: OnnxCall) -> None:
    """Before opset 20 the axis was an attribute, 1 by default."""
    call.inputs += [None] * (2 - len(call.inputs))
    call.inputs.append(call.const(np.array(call.attrs.pop("axis", 1), np.int64)))


def _i(v: int) -> np.ndarray:
    return np.array(v, np.int64)


def _dft_examples() -> list:
    real, cplx = rand(2, 6, 5, 1), rand(2, 6, 5, 2)
    return [
        ex(real, name="real"),
        ex(cplx, None, _i(1), name="axis"),
        ex(real, None, _i(-3), onesided=1, name="onesided"),
        ex(cplx, None, _i(1), inverse=1, name="inverse"),
        ex(cplx, None, _i(1), inverse=1, onesided=1, name="inverse_onesided"),
        ex(real, _i(8), _i(1), name="longer"),
        ex(real, _i(3), _i(1), onesided=1, name="shorter"),
        ex(real.astype(np.float64), name="f64"),
    ]


@op("dft", onnx=Onnx("DFT", since=17, before={20: _axis_to_input}), infer=infer_dft, examples=_dft_examples, tolerance=(2e-5, 5e-6),
    dtypes={"x": FLOATS, "dft_length": LENGTHS, "axis": {I64}})  # fmt: skip
def dft(x, dft_length=None, axis=None, *, inverse=0, onesided=0):
    """The discrete Fourier transform of x[..., 1 | 2] along an axis (the last of the signal by default) -> [..., 2].

    onesided gives the first half of a real signal's spectrum, with inverse a real signal [..., 1] from such a half.
    Computed in at least f32.
    """
    at = _number(axis) % x.ndim if axis is not None else x.ndim - 2
    z = _complex(x)
    n = _number(dft_length) if dft_length is not None else 2 * (z.shape[at] - 1) if inverse and onesided else z.shape[at]
    # The result, as pairs too, and what Bluestein's algorithm needs for one line of a prime length.
    claim(3 * z.itemsize * (z.size // max(z.shape[at], 1)) * max(n, 0) + 128 * max(n, 0))
    if inverse and onesided:
        return np.fft.irfft(z, n, at)[..., None].astype(x.dtype)
    y = np.fft.ifft(z, n, at) if inverse else np.fft.fft(z, n, at)
    return _pairs(np.take(y, np.arange(n // 2 + 1), at) if onesided else y, x.dtype)


BLOCK_BYTES = 32 << 20  # what one block of frames may take


# ---- stft -------------------------------------------------------------------------------------------------------


def infer_stft(c: InferContext) -> TensorType:
    same_dtype(c, 0, 2)
    expect_rank(c, 0, 2, 3)
    expect_rank(c, 2, 1)
    x = c.shape(0) or tuple(c.symbol() for _ in range(3))
    x = (*x, 1) if len(x) == 2 else x
    if c.attr("onesided") and x[2] == 2:
        raise c.error(f"onesided = 1 on {c.t(0)}, expected real input or onesided = 0")
    window = c.shape(2) if c.has(2) else None
    length = _scalar(c, 3) if c.has(3) else None
    if length is None:
        length = window[0] if window else c.symbol() if c.has(2) or c.has(3) else x[1]
    expect_shape(c, 2, (length,), "as long as a frame")
    step = _scalar(c, 1)
    if isinstance(step, int) and step < 1:
        raise c.error(f"frame_step = {step}, expected at least 1")
    frames = window_out(x[1], length, step, 1, 0) if isinstance(step, int) else c.symbol()
    return c.t(0).with_(shape=(x[0], frames, floordiv(length, 2) + 1 if c.attr("onesided") else length, 2))


def _stft_examples() -> list:
    x, w = rand(2, 20, 1), rand(6, lo=0.1, hi=1)
    return [
        ex(x, _i(4), w, name="window"),
        ex(x, _i(3), None, _i(8), name="length"),
        ex(x, _i(5), w, _i(6), onesided=0, name="twosided"),
        ex(rand(1, 12, 2), _i(2), None, _i(4), onesided=0, name="complex"),
        ex(x.astype(np.float64), _i(4), w.astype(np.float64), name="f64"),
    ]


@op("stft", onnx=Onnx("STFT", since=17), infer=infer_stft, examples=_stft_examples, tolerance=(2e-5, 5e-6),
    dtypes={"x": FLOATS, "frame_step": LENGTHS, "window": FLOATS, "frame_length": LENGTHS})  # fmt: skip
def stft(x, frame_step, window=None, frame_length=None, *, onesided=1):
    """The Fourier transforms of the frames of x[B, n, 1 | 2], each times the window -> [B, frames, bins, 2].

    A real signal may also be x[B, n]: torch's exporter writes so and ONNX Runtime reads it, the specification notwithstanding.
    """
    step, z = _number(frame_step), _complex(x[..., None] if x.ndim == 2 else x)
    length = _number(frame_length) if frame_length is not None else len(window) if window is not None else z.shape[1]
    if step < 1:
        raise ValueError(f"frame_step = {step}, expected at least 1")
    if not 0 < length <= z.shape[1]:
        raise ValueError(f"frames of {length} elements in a signal of {z.shape[1]}, expected 1 to so many")
    frames, bins = (z.shape[1] - length) // step + 1, length // 2 + 1 if onesided else length
    claim(16 * len(z) * length)
    block = max(1, BLOCK_BYTES // (16 * max(len(z), 1) * length))  # frames at a time
    out = np.empty((len(z), frames, bins, 2), x.dtype)
    for f in range(0, frames, block):
        at = np.arange(f, min(f + block, frames))[:, None] * step + np.arange(length)
        y = np.fft.fft(z[:, at] * (1 if window is None else wide(window)), axis=2)
        out[:, f : f + block] = _pairs(y[:, :, :bins], x.dtype)
    return out


# ---- windows ----------------------------------------------------------------------------------------------------


def infer_window(c: InferContext) -> TensorType:
    size = _scalar(c, 0)
    return TensorType(c.attr("output_datatype"), (c.symbol() if size is None else size,))


def _window_examples() -> list:
    return [
        ex(_i(10), name="periodic"),
        ex(_i(9), periodic=0, name="symmetric"),
        ex(np.array(7, np.int32), output_datatype=F64, name="f64"),
        ex(_i(0), name="empty"),
    ]


def _window(size: np.ndarray, dtype: DType, periodic: int, fn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """fn of the angles 0 .. 2 pi at `size` points; a window of one point lies at 0."""
    n = _number(size)
    if n < 0:
        raise ValueError(f"size = {n}, expected at least 0")
    claim(5 * 8 * n)
    return fn(2 * np.pi * np.arange(n) / max(n if periodic else n - 1, 1)).astype(dtype.np)


def _window_onnx(op_type: str) -> Onnx:
    return Onnx(op_type, since=17, adapt=dtype_attrs("output_datatype"))


@op("hann_window", onnx=_window_onnx("HannWindow"), infer=infer_window, dtypes={"size": LENGTHS}, examples=_window_examples)
def hann_window(size, *, output_datatype=F32, periodic=1):
    """The window 0.5 - 0.5 cos(t) at `size` points, of one period or with both ends."""
    return _window(size, output_datatype, periodic, lambda t: 0.5 - 0.5 * np.cos(t))


@op("hamming_window", onnx=_window_onnx("HammingWindow"), infer=infer_window, dtypes={"size": LENGTHS}, examples=_window_examples)
def hamming_window(size, *, output_datatype=F32, periodic=1):
    """The window a - (1 - a) cos(t), a = 25 / 46, at `size` points, of one period or with both ends."""
    return _window(size, output_datatype, periodic, lambda t: 25 / 46 - 21 / 46 * np.cos(t))


@op("blackman_window", onnx=_window_onnx("BlackmanWindow"), infer=infer_window, dtypes={"size": LENGTHS}, examples=_window_examples)
def blackman_window(size, *, output_datatype=F32, periodic=1):
    """The window 0.42 - 0.5 cos(t) + 0.08 cos(2 t) at `size` points, of one period or with both ends."""
    return _window(size, output_datatype, periodic, lambda t: 0.42 - 0.5 * np.cos(t) + 0.08 * np.cos(2 * t))


# ---- mel_weight_matrix ------------------------------------------------------------------------------------------


def infer_mel(c: InferContext) -> TensorType:
    bins, length = _scalar(c, 0), _scalar(c, 1)
    shape = (c.symbol() if length is None else floordiv(length, 2) + 1, c.symbol() if bins is None else bins)
    return TensorType(c.attr("output_datatype"), shape)


def _mel_examples() -> list:
    def case(bins: int, length: int, rate: int, low: float, high: float, **attrs: Any) -> Example:
        return ex(_i(bins), _i(length), _i(rate), np.float32(low), np.float32(high), **attrs)

    return [case(8, 16, 8192, 0, 4096), case(20, 64, 16000, 125, 7500), case(5, 32, 8000, 20, 3800, output_datatype=F64)]


@op("mel_weight_matrix", onnx=Onnx("MelWeightMatrix", since=17, adapt=dtype_attrs("output_datatype")), infer=infer_mel,
    dtypes=dict.fromkeys(("num_mel_bins", "dft_length", "sample_rate"), LENGTHS)
    | dict.fromkeys(("lower_edge_hertz", "upper_edge_hertz"), FLOATS), examples=_mel_examples)  # fmt: skip
def mel_weight_matrix(num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz, *, output_datatype=F32):
    """Triangles of height 1, evenly spaced on the mel scale, over the bins of a one-sided spectrum -> [bins, num_mel_bins].

    Their corners are cut down to whole bins, num_mel_bins + 2 steps apart, as in ONNX's test data.
    """
    count, length = _number(num_mel_bins), _number(dft_length)
    claim(6 * 8 * (count + 2) * (length // 2 + 1))
    low, high = (2595 * math.log10(1 + float(wide(f).reshape(())) / 700) for f in (lower_edge_hertz, upper_edge_hertz))
    mels = low + np.arange(count + 2) * ((high - low) / (count + 2))
    corners = np.floor((length + 1) * 700 * (10 ** (mels / 2595) - 1) / _number(sample_rate)).astype(np.int64)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    at = np.arange(length // 2 + 1)[:, None]
    rising = np.where((at >= left) & (at <= centre), (at - left) / np.maximum(centre - left, 1), 0)
    falling = np.where((at >= centre) & (at < right), (right - at) / np.maximum(right - centre, 1), 0)
    out = np.where(at == centre, 1, np.maximum(rising, falling))
    return out.astype(output_datatype.np)
