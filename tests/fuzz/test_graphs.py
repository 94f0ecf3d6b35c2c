"""Random graphs: compiled for the CPU, run at two sizes by one executable, equal to onnx.reference.

Where the two differ ONNX Runtime decides. GRAPHMILL_FUZZ_LONG=1000 draws that many, at random.
"""

from __future__ import annotations

import warnings

import graphmill as gm
import numpy as np
import onnxruntime as ort
from graphs import G, graphs
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

TOLERANCE = {"float64": (1e-9, 1e-9), "float32": (1e-3, 1e-4), "float16": (3e-2, 2e-2)}


def equal(got: np.ndarray, want: np.ndarray) -> str:
    want = np.asarray(want)
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
    if got.dtype.kind != "f":
        return "" if np.array_equal(got, want) else f"{got}, expected {want}"
    rtol, atol = TOLERANCE[got.dtype.name]
    finite = want[np.isfinite(want)]
    scale = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
    return "" if np.allclose(got, want, rtol, atol * scale, equal_nan=True) else f"{got}, expected {want}"


def peer(model, inputs):
    """ONNX Runtime's answer; None where it has none."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.SerializeToString(), options).run(None, inputs)
    except Exception:
        return None


def sensitive(model, inputs, outputs) -> bool:
    """Whether rounding decides: the reference on inputs a trifle away differs visibly from itself (a Floor, a comparison)."""
    moved = {k: (x * (1 + 3e-6)).astype(x.dtype) if x.dtype.kind == "f" else x for k, x in inputs.items()}
    again = ReferenceEvaluator(model).run(None, moved)
    return any(equal(np.asarray(a), b) for a, b in zip(again, outputs))


def reference(model, inputs):
    """onnx.reference's answer, ONNX Runtime's where that fails; None where both do."""
    try:
        return ReferenceEvaluator(model).run(None, inputs)
    except Exception:
        return peer(model, inputs)


@given(graphs(), st.integers(0, 1000))
def test_compiled_equals_the_reference(g: G, seed: int):
    model = g.model
    exe = gm.compile(model)
    for which in (0, 1):
        inputs = g.inputs(which, seed)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            want = reference(model, inputs)
            if want is None:
                return
            got = list(exe.run(inputs).values())
            wrong = [d for a, b in zip(got, want, strict=True) if (d := equal(a, b))]
            if not wrong or sensitive(model, inputs, want):
                continue
            other = peer(model, inputs)
        assert other is not None and not any(map(equal, got, other)), "\n".join(wrong)
