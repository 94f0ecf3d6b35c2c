"""Softmax and its relatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..op import InferContext, Onnx, OnnxCall, ex, op
from ..types import FLOATS, TensorType
from .common import wide
from .examples import rand


def infer_softmax(c: InferContext) -> TensorType:
    rank = c.rank(0)
    if rank is not None:
        c.axis(c.attr("axis"), rank)
    return c.t(0)


def _flattening(call: OnnxCall) -> None:
    """Before opset 13 the operator worked on x flattened to two axes at `axis`, 1 by default; the same where `axis` is the last."""
    axis, rank = call.attrs.setdefault("axis", 1), call.rank(call.inputs[0])
    if rank is None or axis not in (rank - 1, -1):
        call.attrs["flatten"] = 1


def _export(call: OnnxCall) -> None:
    flatten, rank = call.attrs.pop("flatten", 0), call.rank(call.inputs[0])
    if flatten and call.opset >= 13:
        raise ValueError("flatten = 1 has no form in opset 13 and above; export to opset 12 or below")
    if not flatten and call.opset < 13 and (rank is None or call.attrs.get("axis", -1) not in (-1, rank - 1)):
        raise ValueError("an axis other than the last has no form before opset 13; export to opset 13 or above")


def _forms(op_type: str) -> Onnx:
    return Onnx(op_type, before={13: _flattening}, export=_export)


def _along(x: np.ndarray, axis: int, flatten: int, fn: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """fn(x, axis) in x's type, on x flattened to two axes at `axis` where asked for."""
    if not flatten:
        return fn(wide(x), axis).astype(x.dtype)
    lead = math.prod(x.shape[: axis % x.ndim if x.ndim else 0])
    flat = wide(x).reshape(lead, math.prod(x.shape[axis % x.ndim if x.ndim else 0 :]))
    return fn(flat, 1).reshape(x.shape).astype(x.dtype)


def _shifted(x: np.ndarray, axis: int) -> np.ndarray:
    """x less its maximum along the axis, so that exp does not overflow."""
    return x - x.max(axis=axis, keepdims=True, initial=-np.inf)


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(_shifted(x, axis))
    return e / e.sum(axis=axis, keepdims=True)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    s = _shifted(x, axis)
    return s - np.log(np.exp(s).sum(axis=axis, keepdims=True))


def _hardmax(x: np.ndarray, axis: int) -> np.ndarray:
    if not x.size:
        return x
    hot = np.zeros_like(x)
    np.put_along_axis(hot, np.expand_dims(x.argmax(axis=axis), axis), 1, axis)
    return hot


def _examples() -> list:
    x = rand(2, 3, 4, lo=-5, hi=5)
    ties = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
    return [
        ex(x, name="last"),
        ex(x, axis=0, name="first"),
        ex(x, axis=-2, name="middle"),
        ex(x.astype(np.float64), name="f64"),
        ex(x.astype(np.float16), name="f16"),
        ex(np.array([[1e4, 1e4 + 1, -1e4]], np.float32), name="large"),
        ex(ties, axis=1, name="ties"),
        ex(x[:0], axis=1, name="empty"),
        ex(rand(2, 0, 3), axis=2, name="empty_axis"),
    ]


@op("softmax", onnx=_forms("Softmax"), infer=infer_softmax, dtypes={"x": FLOATS}, examples=_examples)
def softmax(x, *, axis=-1, flatten=0):
    """exp(x) / sum(exp(x)) along an axis; with `flatten` (before opset 13) along all axes from `axis` on."""
    return _along(x, axis, flatten, _softmax)


@op("log_softmax", onnx=_forms("LogSoftmax"), infer=infer_softmax, dtypes={"x": FLOATS}, examples=_examples)
def log_softmax(x, *, axis=-1, flatten=0):
    """log(softmax(x)) along an axis; with `flatten` (before opset 13) along all axes from `axis` on."""
    return _along(x, axis, flatten, _log_softmax)


@op("hardmax", onnx=_forms("Hardmax"), infer=infer_softmax, dtypes={"x": FLOATS}, examples=_examples)
def hardmax(x, *, axis=-1, flatten=0):
    """1 at the first maximum along an axis, else 0; with `flatten` (before opset 13) along all axes from `axis` on."""
    return _along(x, axis, flatten, _hardmax)
