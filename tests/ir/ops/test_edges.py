"""Every pair of edge values (extremes, infinities, NaN, zeros of both signs, denormals) of every element type, through every
elementwise operator of one or two operands, against onnx.reference and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.op import OPS, OpDef, ex
from graphmill.ir.types import BOOL, DTYPES, DType
from op_harness import export_call, load_all, onnx_form, run_onnx_reference, run_ort, run_reference

load_all()
TOLERANCE = {"f64": (1e-9, 1e-300), "f32": (1e-4, 1e-37), "f16": (1e-2, 1e-6), "bf16": (5e-2, 1e-37)}

# (operator, peer) and the element types where the peer is known to differ, with the reason.
DIFFERENCES = {
    ("clip", "ort"): ({"f16", "f32", "f64"}, "bounds that were left out clip infinity"),
    ("erf", "reference"): ({"f64"}, "computes in f32"),
    ("gelu", "reference"): ({"f64", "f16", "bf16"}, "computes erf in f32, and rounds after every step"),
    ("hard_swish", "reference"): ({"f64"}, "has its constants in f32"),
    ("mean", "ort"): ({"f16"}, "overflows in the sum"),
    ("mean", "reference"): ({"f16"}, "overflows in the sum"),
    ("prelu", "reference"): ({"f64", "f32", "f16", "bf16"}, "multiplies both branches, and 0 by infinity gives NaN"),
    ("shrink", "ort"): ({"f64", "i32", "u32"}, "computes in f32"),
    ("sign", "ort"): ({"f16", "bf16"}, "0 for NaN"),
    ("swiglu", "reference"): ({"f16", "bf16"}, "rounds after every step"),
}


def edges(d: DType) -> np.ndarray:
    if d is BOOL:
        return np.array([True, False])
    if d.is_integer:
        info = np.iinfo(d.np)
        around = [info.max, info.max - 1, info.min, info.min + 1]
        return np.array([0, 1, 2, 3, 7, *around, *([-1, -2, -7] if d.kind == "int" else [])], d.np)
    f = ml_dtypes.finfo(d.np)
    limits = [float(v) for v in (f.max, f.min, f.smallest_normal, f.smallest_subnormal)]
    return np.array([0, -0.0, 1, -1, 0.5, 2.5, -2.5, 3, 1e-3, -7.25, np.inf, -np.inf, np.nan, *limits]).astype(d.np)


def operands(d: OpDef, t: DType) -> tuple[np.ndarray, ...]:
    """All edge values, or all pairs of them; without what ONNX leaves undefined."""
    e = edges(t)
    if sum(not o.optional for o in d.operands) == 1 and not d.operands[0].variadic:
        return (e,)
    a, b = np.repeat(e, len(e)), np.tile(e, len(e))
    if d.name in ("div", "mod") and t.is_integer:
        defined = b != 0
        if t.kind == "int":
            defined &= ~((a == np.iinfo(t.np).min) & (b == -1))
        a, b = a[defined], b[defined]
    return a, b


def _cases() -> list:
    out = []
    for name in OPS:
        d = OPS[name]
        fits = d.family in ("math", "activation", "compare") and len([o for o in d.operands if not o.optional]) <= 2
        if not fits or name == "bit_shift":
            continue
        for t in sorted(d.operands[0].dtypes, key=str):
            plain = t is BOOL or t.name in TOLERANCE or (t.is_integer and t.bits >= 8)
            if plain and not (name == "pow" and t.is_integer):
                out.append(pytest.param(name, t.name, id=f"{name}-{t.name}"))
    return out


@pytest.mark.parametrize("name, dtype", _cases())
def test_edges(name: str, dtype: str) -> None:
    d, t = OPS[name], DTYPES[dtype]
    e = ex(*operands(d, t), **({"fmod": 1} if name == "mod" and t.is_float else {}))
    results = run_reference(d, e)
    form = onnx_form(d)
    assert form is not None
    call, added = export_call(d, e, form)
    values: dict[str, Any] = {f"i{i}": x for i, x in enumerate(e.operands)} | added
    for peer, ask in (("reference", run_onnx_reference), ("ort", run_ort)):
        got = ask(call, values, results, set(added))
        if got is None or dtype in DIFFERENCES.get((name, peer), ((), ""))[0]:
            continue
        assert not isinstance(got[0], Exception), got[0]
        if t.is_float and results[0].dtype != bool:
            rtol, atol = TOLERANCE[dtype]
            np.testing.assert_allclose(
                results[0].astype(np.float64), got[0].astype(np.float64), rtol, atol, equal_nan=True, err_msg=peer
            )
        else:
            np.testing.assert_array_equal(results[0], got[0], err_msg=peer)
