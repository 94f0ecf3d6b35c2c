"""Arithmetic and activations, element by element."""

from __future__ import annotations

import numpy as np

from ..op import Onnx, OnnxCall, elementwise, ex
from ..scalar import Expr, where
from ..types import NUMERIC


def legacy_broadcast(call: OnnxCall) -> None:
    """Before opset 7 a binary operator broadcast only its second operand, aligned at `axis`: give it trailing dims instead."""
    axis = call.attrs.pop("axis", None)
    call.attrs.pop("broadcast", None)
    call.attrs.pop("consumed_inputs", None)
    if axis is None:
        return
    ra, rb = call.rank(call.inputs[0]), call.rank(call.inputs[1])
    array = call.array(call.inputs[1])
    if ra is None or rb is None or array is None:
        raise ValueError(f"axis = {axis} needs a constant second operand; expected opset >= 7")
    axis = axis % ra if ra else 0
    call.inputs[1] = call.const(array.reshape(array.shape + (1,) * (ra - axis - rb)))


def arithmetic(op_type: str) -> Onnx:
    return Onnx(op_type, before={7: legacy_broadcast})


def _pairs() -> list:
    a = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    return [ex(a, a[:1] + 1), ex(a, np.float32(3)), ex(np.zeros((0, 3), np.float32), a[:1]), ex(np.array([7, -7, 7], np.int32), np.array([2, 2, -2], np.int32))]


@elementwise("add", onnx=arithmetic("Add"), dtypes=NUMERIC, examples=_pairs)
def add(a: Expr, b: Expr) -> Expr:
    """a + b; integers wrap."""
    return a + b


@elementwise("relu", onnx="Relu", dtypes=NUMERIC, examples=lambda: [ex(np.array([-1.5, 0, 2, np.nan], np.float32))])
def relu(x: Expr) -> Expr:
    """x where it is positive, else 0; NaN stays NaN."""
    return where(x < 0, 0, x)
