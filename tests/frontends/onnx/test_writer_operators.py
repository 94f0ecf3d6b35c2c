"""Every operator's examples as programs of one node, written for new and old opsets: what is read back gives the same results, and so
does ONNX Runtime. Where an opset has no form for an example, the report names an opset that has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.frontends.onnx.writer import export
from graphmill.ir.core import Module
from graphmill.ir.errors import ExportProblem
from graphmill.ir.infer import infer_module
from graphmill.ir.interp import run
from graphmill.ir.op import OPS, Example, OpDef
from graphmill.ir.types import dtype_of, type_of

sys.path.insert(0, str(Path(__file__).parents[2] / "ir" / "ops"))
from op_harness import DIFFERENCES, compare, examples_of, load_all

load_all()
NAMES = [n for n in OPS if OPS[n].examples and n != "to_layout"]
OPSETS = (28, 11)
ORT_OPSET = 13  # other opsets were compared once; each costs as much again
# What ONNX Runtime makes of com.microsoft's operators, test_contrib*.py compares, with the care that their rounding needs.
STANDARD = [n for n in NAMES if any(f.domain in ("", "ai.onnx.ml") for f in OPS[n].onnx)]


def program(d: OpDef, e: Example) -> tuple[Module, dict[str, Any]]:
    """The example as a module: the first operand is an input, the others are constants, for older forms hold them as attributes."""
    m, operands, feeds = Module("example", {"": 28}), [], {}
    for i, x in enumerate(e.operands):
        if x is None:
            operands.append(None)
        elif i and isinstance(x, np.ndarray):
            operands.append(m.add_const(f"c{i}", x))
        else:
            operands.append(m.main.add_input(f"x{i}", type_of(x)))
            feeds[f"x{i}"] = x
    node = m.main.add(d, operands, dict(e.attrs), names=[f"y{i}" for i in range(e.results)], locs=["the/node"])
    m.main.set_outputs(node.results)
    infer_module(m)
    return m, feeds


def written(m: Module, opset: int) -> onnx.ModelProto | None:
    """The model; None where it is refused, which must name an opset that serves."""
    try:
        return export(m, opset)
    except ExportProblem as e:
        assert opset != 28, f"the newest opset has every operator: {e}"
        assert all("export to opset " in p.hint and p.opset and p.node for p in e.problems), str(e)
        return None


@pytest.mark.parametrize("name", NAMES)
def test_read_back(name: str):
    d = OPS[name]
    for i, e in enumerate(examples_of(d)):
        m, feeds = program(d, e)
        want = None
        for opset in OPSETS:
            proto = written(m, opset)
            if proto is None:
                continue
            onnx.checker.check_model(proto)
            want = list(run(m, feeds).values()) if want is None else want
            compare(list(run(read(proto), feeds).values()), want, d, f"example {i} at opset {opset}")


@pytest.mark.parametrize("name", STANDARD)
def test_in_onnxruntime(name: str):
    d = OPS[name]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for i, e in enumerate(examples_of(d)):
        m, feeds = program(d, e)
        proto = written(m, ORT_OPSET)
        if proto is None or {("ort", name, None), ("ort", name, i)} & DIFFERENCES.keys():
            continue
        want = list(run(m, feeds).values())
        if not all(_is_plain(x) for x in [*feeds.values(), *want]):
            continue  # no numpy array of the element type can be handed to it
        try:
            session = ort.InferenceSession(proto.SerializeToString(), options)
        except Exception:
            continue  # it has no kernel for these types
        try:
            got = session.run(None, feeds)
        except Exception as error:
            assert "is < 1" in str(error), error  # multinomial of no rows
            continue
        compare(got, want, d, f"ONNX Runtime, example {i}")


def _is_plain(x: Any) -> bool:
    return isinstance(x, list) or dtype_of(x).np.isbuiltin == 1
