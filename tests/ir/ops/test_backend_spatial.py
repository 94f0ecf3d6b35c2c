"""ONNX's own node cases of convolution, pooling, norms, resizing, recurrence, attention and their kin, through the reader."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir.interp import run
from graphmill.ir.op import OPS
from onnx.backend.test.loader import load_model_tests
from test_backend_nodes import _value, compare

FAMILIES = {"conv", "conv_other", "pool", "roi", "norm", "softmax", "resize", "image", "rnn", "attention", "signal", "loss"}
# ONNX gives these none; their examples are held against ONNX Runtime.
WITHOUT_CASES = {"global_lp_pool", "max_roi_pool"}
# Their data take the unrounded length where the standard's text, torch and ONNX Runtime take the length of the result.
OTHERWISE = {f"test_resize_downsample_scales_{mode}_align_corners" for mode in ("linear", "cubic")}


@functools.cache
def cases() -> dict[str, Any]:
    """The one-node cases of the operators of FAMILIES, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {t.name: t for t in load_model_tests(kind="node") if len(t.model.graph.node) == 1}
    return {name: t for name, t in found.items() if (op := _operator(t)) is not None and op.family in FAMILIES}


def _operator(case: Any) -> Any:
    node = case.model.graph.node[0]
    known = OPS.by_onnx(node.domain, node.op_type)
    return known and known[1]


def test_every_operator_has_cases() -> None:
    tested = {_operator(t).name for t in cases().values()}
    assert {n for n in OPS if OPS[n].family in FAMILIES and OPS[n].onnx} - tested == WITHOUT_CASES


@pytest.mark.parametrize("name", sorted(cases().keys() - OTHERWISE))
def test_case(name: str) -> None:
    case = cases()[name]
    module = read(case.model)
    for inputs, outputs in case.data_sets:
        feed = dict(zip((v.name for v in module.main.inputs), map(_value, inputs), strict=True))
        got = run(module, feed).values()
        for g, w in zip(got, map(_value, outputs), strict=True):
            half = np.asarray(w).dtype == ml_dtypes.bfloat16  # two units in the last place, as ONNX's own runner allows
            compare(g, w, max(case.rtol, 2**-6) if half else case.rtol, case.atol)
