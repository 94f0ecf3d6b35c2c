"""The report of what fewer bits cost."""

from __future__ import annotations

from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.ir.errors import InputError, IRError
from onnx import parser as onnx_parser

MODEL = """<ir_version: 10, opset_import: ["" : 21]> m (float[2, 3] x) => (float[2, 3] y) <float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
    a = MatMul (x, w)  b = Exp (a)  c = MatMul (b, w)  y = Relu (c) }"""


def report(**options: Any) -> dict[str, Any]:
    x = np.linspace(-0.1, 0.1, 6, dtype=np.float32).reshape(2, 3)
    return {r.name: r for r in gm.precision_report(onnx_parser.parse_model(MODEL), {"x": x}, **options)}


def test_errors_of_every_value() -> None:
    rows = report()
    assert [(r.name, r.dtype) for r in rows.values()] == [("a", "f16"), ("b", "f32"), ("c", "f16"), ("y", "f16")]
    assert all(1e-6 < r.error < 2e-3 for r in rows.values())
    assert rows["b"].reason == "exp stays in f32"
    wide = report(precision="bf16")
    assert wide["y"].dtype == "bf16" and wide["y"].error > rows["y"].error


def test_what_is_kept() -> None:
    rows = report(keep_fp32=("c",))
    assert rows["c"].dtype == rows["y"].dtype == "f32" and rows["c"].reason == "the node is to stay in f32"


def test_wrong_options() -> None:
    with pytest.raises(InputError, match="expected one of fp16, bf16"):
        report(precision="fp32")
    with pytest.raises(IRError, match="there is no node named nothing"):
        report(keep_fp32=("nothing",))
