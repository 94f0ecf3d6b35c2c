"""What operators of ai.onnx.ml are opened into computes what their references compute, on all their examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphmill.ir import interp
from graphmill.ir.core import Module
from graphmill.ir.infer import infer_module
from graphmill.ir.op import OPS, Example
from graphmill.ir.passes.decompose import OPENERS
from graphmill.ir.passes.manager import Context, parse_pipeline, run_pipeline
from graphmill.ir.types import TensorType, dtype_of
from graphmill.kernels.cpu.target import CpuTarget

ML = [n for n in OPENERS if OPS[n].family in ("categories", "classic", "forest", "ml")]
STAYS = {"categories are strings", "no operator for the transform", "coupled by a loop", "fewer than two classes", "nothing to do",
         "the keys are strings", "the labels are numbers"}  # fmt: skip


def opened(op: str, e: Example, pipeline: str = "decompose{always=true}") -> tuple[dict, dict, Context]:
    """The results of an operator, of what it is opened into, and the decisions."""
    m = Module({"": 21, "ai.onnx.ml": 3})
    operands: list[Any] = [m.main.add_input(f"x{i}", TensorType(dtype_of(a), a.shape)) for i, a in enumerate(e.operands)]
    node = m.main.add(OPS[op], operands, dict(e.attrs), names=[f"y{i}" for i in range(e.results)])
    m.main.set_outputs(node.results)
    infer_module(m)
    feeds = {f"x{i}": a for i, a in enumerate(e.operands)}
    before, ctx = interp.run(m, feeds), Context(target=CpuTarget())
    run_pipeline(m, parse_pipeline(pipeline), ctx)
    return before, interp.run(m, feeds), ctx


@pytest.mark.parametrize("op", ML)
def test_opened_operators_compute_the_same(op: str) -> None:
    applied = 0
    for e in OPS[op].examples():  # type: ignore[misc]
        before, after, ctx = opened(op, e)
        (decision,) = ctx.log.decisions
        applied += decision.outcome == "applied"
        assert decision.outcome == "applied" or any(s in decision.reason for s in STAYS), decision
        for a, b in zip(before.values(), after.values(), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            if a.dtype == object:
                assert a.tolist() == b.tolist()
            else:
                np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    assert applied


@pytest.mark.parametrize("op", [n for n in ML if n != "tree_ensemble_classifier"])
def test_the_cpu_has_kernels_for_all_pieces(op: str) -> None:
    for e in OPS[op].examples():  # type: ignore[misc]
        _, _, ctx = opened(op, e, "decompose")
        assert all(d.outcome == "applied" or any(s in d.reason for s in STAYS) for d in ctx.log.decisions), ctx.log.decisions


def test_rbf_kernel_of_infinite_features_is_zero() -> None:
    x = np.array([[np.inf, 1], [-np.inf, np.inf], [0.5, np.nan], [0.5, 1]], np.float32)
    attrs = {"coefficients": (1.0, -2.0), "support_vectors": (0.5, 1.0, -1.0, 2.0), "n_supports": 2, "rho": (0.25,)}
    before, after, _ = opened("svm_regressor", Example((x,), {**attrs, "kernel_type": "RBF", "kernel_params": (0.5, 0.0, 3.0)}))
    assert before["y0"][:2].ravel().tolist() == [0.25, 0.25]
    np.testing.assert_allclose(after["y0"], before["y0"], rtol=1e-6)


def test_ties_of_svm_votes_go_to_the_first_class() -> None:
    """Three classes, each of which wins one pair."""
    attrs = {
        "classlabels_strings": ("a", "b", "c"), "vectors_per_class": (1, 1, 1), "support_vectors": (1.0, 1.0, 1.0),
        "coefficients": (0.0,) * 6, "rho": (1.0, -1.0, 1.0),
    }  # fmt: skip
    before, after, _ = opened("svm_classifier", Example((np.float32([[1], [2]]),), attrs, results=2))
    assert after["y0"].tolist() == before["y0"].tolist() == ["a", "a"]
