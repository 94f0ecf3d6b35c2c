"""ONNX's own node cases of the operators of these families, through the reader and the reference interpreter."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir.interp import run
from graphmill.ir.op import OPS
from graphmill.ir.types import dtype_of
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from op_harness import load_all

FAMILIES = {"math", "activation", "compare", "cast", "reduce", "linalg", "quant"}


@functools.cache
def cases() -> dict[str, Any]:
    """The node cases whose model is one node of an operator of FAMILIES, by name."""
    load_all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {t.name: t for t in load_model_tests(kind="node")}
    return {name: t for name, t in found.items() if len(t.model.graph.node) == 1 and _is_ours(t.model.graph.node[0])}


def _is_ours(node: onnx.NodeProto) -> bool:
    known = OPS.by_onnx(node.domain, node.op_type)
    return known is not None and known[1].family in FAMILIES


def _value(x: Any) -> Any:
    return (
        numpy_helper.to_array(x)
        if isinstance(x, onnx.TensorProto)
        else [_value(v) for v in x]
        if isinstance(x, list)
        else np.asarray(x)
    )


def test_every_operator_has_cases() -> None:
    """Operators that ONNX gives no one-node case are known by name, so that none is lost unseen."""
    tested = {OPS.by_onnx("", t.model.graph.node[0].op_type)[1].name for t in cases().values()}
    assert {n for n in OPS if OPS[n].family in FAMILIES and OPS[n].onnx} - tested == set()


@pytest.mark.parametrize("name", sorted(cases()))
def test_case(name: str) -> None:
    case = cases()[name]
    module = read(case.model)
    for inputs, outputs in case.data_sets:
        feed = dict(zip((v.name for v in module.main.inputs), map(_value, inputs)))
        got = list(run(module, feed).values())
        assert len(got) == len(outputs)
        for g, w in zip(got, map(_value, outputs)):
            compare(g, w, case.rtol, case.atol)


def compare(got: Any, want: Any, rtol: float, atol: float) -> None:
    """Equal types and shapes; floats within the case's tolerance, all else exactly."""
    if isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want)
        for g, w in zip(got, want):
            compare(g, w, rtol, atol)
        return
    assert (dtype_of(got), got.shape) == (dtype_of(want), want.shape)
    if dtype_of(got).is_float:
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol, atol, equal_nan=True)
    else:
        np.testing.assert_array_equal(got, want)
