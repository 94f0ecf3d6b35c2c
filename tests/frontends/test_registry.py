"""Users' converters."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.frontends import registry
from graphmill.frontends.onnx.reader import read
from graphmill.ir import interp
from graphmill.ir.errors import ImportProblem
from onnx.parser import parse_model


@pytest.fixture
def converter():
    made = []

    def register(domain, op_type):
        made.append((domain, op_type))
        return registry.converter(domain, op_type)

    yield register
    for key in made:
        registry.unregister(*key)


def model(body: str):
    return parse_model('<ir_version: 9, opset_import: ["" : 18, "com.example" : 1]>\n' + body)


BODY = "g (float[N] x) => (float[N] y) { y = com.example.ScaledAdd <alpha = 2.0> (x, x) }"


def test_several_nodes_named_after_the_output(converter):
    @converter("com.example", "ScaledAdd")
    def scaled_add(b, call):
        x, y = call.inputs
        return b.op("add", b.op("mul", x, b.const(np.float32(call.attrs["alpha"]))), y)

    m = model(BODY)
    m.graph.node[0].name = "here"
    got = read(m)
    assert [(n.name, n.op.name, n.locs) for n in got.main] == [("y.mul", "mul", ("here",)), ("y", "add", ("here",))]
    assert interp.run(got, {"x": np.array([1, 2], np.float32)})["y"].tolist() == [3, 6]


def test_a_converter_goes_before_what_is_built_in_and_sees_types(converter):
    @converter("ai.onnx", "Relu")
    def relu(b, call):
        assert call.rank(call.inputs[0]) == 1 and str(call.dtype(call.inputs[0])) == "f32"
        return [b.op("neg", call.inputs[0])]

    got = read(model("g (float[N] x) => (float[N] y) { y = Relu(x) }"))
    assert [n.op.name for n in got.main] == ["neg"]


def test_several_results_and_passing_an_input_through(converter):
    @converter("com.example", "Both")
    def both(b, call):
        return call.inputs[0], b.op("neg", call.inputs[0])

    got = read(model("g (float[N] x) => (float[N] y, float[N] z) { y, z = com.example.Both(x) }"))
    assert [v.name for v in got.main.outputs] == ["x", "z"] and got.output_names == ["y", "z"]


@pytest.mark.parametrize("fn, words", [
    (lambda b, call: [], "0 values, expected 1"),
    (lambda b, call: [None], "y is not computed"),
    (lambda b, call: 1 / 0, "ZeroDivisionError"),
    (lambda b, call: b.op("no_such_op"), "no operator named 'no_such_op'"),
    (lambda b, call: (_ for _ in ()).throw(ValueError("alpha = 2.0 is too large; expected < 1")), "too large; expected < 1"),
])  # fmt: skip
def test_what_a_converter_raises_is_a_problem_of_its_node(converter, fn, words):
    converter("com.example", "ScaledAdd")(fn)
    with pytest.raises(ImportProblem, match=words) as e:
        read(model(BODY))
    assert e.value.problems[0].op == "ScaledAdd"


def test_errors_that_only_follow_are_not_reported(converter):
    @converter("com.example", "Picky")
    def picky(b, call):
        if call.rank(call.inputs[0]) is None:
            raise ValueError("the rank is not known")
        return call.inputs[0]

    with pytest.raises(ImportProblem) as e:
        read(model("g (float[N] x) => (float[N] y) { t = com.example.Missing(x)  y = com.example.Picky(t) }"))
    assert [p.op for p in e.value.problems] == ["Missing"]
