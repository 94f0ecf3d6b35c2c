"""Operands of wrong types and shapes are problems of the model, all in one report."""

from __future__ import annotations

import graphmill as gm
import onnx
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.frontends.onnx.typecheck import report, type_problems

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g (float[2,3] x, int64[2,3] i, bool c) => (float[2,3] y, float[2,3] z, float w) {
    [bits] a = BitwiseAnd(x, i)
    [after] b = Neg(a)
    [shapes] s = MatMul(x, x)
    [branches] t = If(c) <then_branch = g1 () => (float[2,3] p) { [inner] q = Relu(x) p = Cast<to = 1>(q) },
                          else_branch = g2 () => (float[2,3] p) { [deep] q = Sqrt(i) p = Cast<to = 1>(q) }>
    y = Add(b, t)
    z = Relu(x)
    w = ReduceSum(s)
}"""


def model(text: str = MODEL) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def test_all_problems_come_at_once_and_name_node_operator_and_opset() -> None:
    with pytest.raises(gm.errors.ImportProblem) as e:
        gm.compile(model())
    found = {p.node: p for p in e.value.problems}
    assert list(found) == ["bits", "shapes", "deep"], str(e.value)  # what follows from them is not told
    bits, deep = found["bits"], found["deep"]
    assert (bits.op, bits.opset) == ("BitwiseAnd", 21)
    assert bits.message == "its input 0 (a), x, is of type f32[2,3]" and bits.hint.startswith("expected one of i16, i32")
    assert (deep.op, deep.hint) == ("Sqrt", "expected one of bf16, f16, f32, f64")
    assert "the inner dimensions of [2,3] and [2,3] differ" in found["shapes"].message
    assert "node bits (BitwiseAnd, opset 21): its input 0" in str(e.value)


def test_a_model_whose_types_fit_has_no_problems() -> None:
    good = '<ir_version: 10, opset_import: ["" : 21]>\ng (float[N] x) => (float[N] y) { y = Relu(x) }'
    assert not type_problems(read(model(good))) and report(model(good)) is None


def test_a_module_keeps_its_own_errors() -> None:
    with pytest.raises(gm.errors.GraphmillError) as e:
        gm.compile(read(model()))
    assert not isinstance(e.value, gm.errors.ImportProblem)
