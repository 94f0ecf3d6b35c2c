"""Functions are inlined: names, attributes, nesting, and what recursion and growth end in."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir import interp
from graphmill.ir.errors import HostileModelError, ImportProblem, LimitError
from graphmill.ir.limits import Limits
from onnx import helper
from onnx.parser import parse_model

HEADER = '<ir_version: 9, opset_import: ["" : 18, "own" : 1]>\n'
SCALE = """
<domain: "own", opset_import: ["" : 18]>
Leak <alpha, beta: float = 0.25> (a) => (c) { b = LeakyRelu <alpha: float = @alpha> (a)  c = LeakyRelu <alpha: float = @beta> (b) }
"""


def run(text: str, **inputs) -> dict[str, np.ndarray]:
    return interp.run(read(parse_model(HEADER + text)), {k: np.asarray(v, np.float32) for k, v in inputs.items()})


def test_a_call_is_replaced_by_its_nodes_under_derived_names():
    m = parse_model(HEADER + "g (float[N] x) => (float[N] y) { y = own.Leak <alpha = 0.5> (x) }" + SCALE)
    m.graph.node[0].name, m.functions[0].node[0].name = "/call", "inner"
    got = read(m)
    assert [(n.name, n.attr("alpha"), n.locs) for n in got.main] == [("y.b", 0.5, ("/call/inner",)), ("y", 0.25, ("/call",))]
    assert interp.run(got, {"x": np.array([-8.0, 4.0], np.float32)})["y"].tolist() == [-1, 4]


def test_attributes_given_defaulted_and_absent():
    out = run("g (float[N] x) => (float[N] y) { y = own.Leak <alpha = 0.5, beta = 0.5> (x) }" + SCALE, x=[-8, 4])
    assert out["y"].tolist() == [-2, 4]
    # An attribute that neither the call nor the function gives is absent: the operator's own default holds.
    out = run("g (float[N] x) => (float[N] y) { y = own.Leak (x) }" + SCALE, x=[-8, 4])
    assert np.allclose(out["y"], [-8 * 0.01 * 0.25, 4])


def test_nested_calls_and_two_calls_of_one_function():
    out = run("""g (float[N] x) => (float[N] z) { y = own.Twice(x)  z = own.Twice(y) }
        <domain: "own", opset_import: ["" : 18, "own" : 1]> Twice (a) => (b) { t = own.Double(a)  b = own.Double(t) }
        <domain: "own", opset_import: ["" : 18]> Double (a) => (b) { b = Add(a, a) }""", x=[1])  # fmt: skip
    assert out["z"].tolist() == [16]


def test_values_of_a_function_do_not_see_the_caller_s():
    m = parse_model(HEADER + """g (float[N] x, float[N] t) => (float[N] y) { y = own.F(x) }
        <domain: "own", opset_import: ["" : 18]> F (a) => (b) { b = Add(a, t) }""")  # fmt: skip
    with pytest.raises(ImportProblem, match="its input t is not defined"):
        read(m)


def test_regions_in_functions_see_the_function_s_values():
    m = parse_model(HEADER + """g (bool c, float[N] x) => (float[N] y) { y = own.F(c, x) }
        <domain: "own", opset_import: ["" : 18]> F (p, a) => (b) {
            t = Add(a, a)
            b = If (p) <then_branch = u () => (float[N] r) { r = Add(t, a) }, else_branch = v () => (float[N] s) { s = Relu(t) }>
        }""")  # fmt: skip
    for c, want in ((True, [-3, 6]), (False, [0, 4])):
        assert interp.run(read(m), {"c": np.array(c), "x": np.array([-1, 2], np.float32)})["y"].tolist() == want


def test_optional_inputs_left_out_and_outputs_passed_through():
    text = """
        <domain: "own", opset_import: ["" : 18]> F (a, lo, hi) => (b, a) { b = Clip(a, lo, hi) }"""
    out = run('g (float[N] x, float h) => (float[N] y, float[N] z) { y, z = own.F(x, "", h) }' + text, x=[-1, 5], h=2)
    assert out["y"].tolist() == [-1, 2] and out["z"].tolist() == [-1, 5]
    out = run("g (float[N] x) => (float[N] y) { y = own.F(x) }" + text, x=[-1, 5])
    assert out["y"].tolist() == [-1, 5]


def test_the_domain_decides_whose_relu_it_is():
    text = """g (float[N] x) => (float[N] y) { y = %sRelu(x) }
        <domain: "own", opset_import: ["" : 18]> Relu (a) => (b) { b = Neg(a) }"""
    assert run(text % "own.", x=[1])["y"].tolist() == [-1]
    assert run(text % "", x=[1])["y"].tolist() == [1]


def test_a_function_s_opset_is_its_own():
    m = parse_model(HEADER + """g (float[2, 3] x, float[2] w) => (float[2, 3] y) { y = own.F(x) }
        <domain: "own", opset_import: ["" : 6]> F (a) => (b) {
            w = Constant <value = float[2] {1, 2}> ()
            b = Add <axis = 0, broadcast = 1> (a, w)
        }""")  # fmt: skip
    out = interp.run(read(m), {"x": np.zeros((2, 3), np.float32), "w": np.zeros(2, np.float32)})
    assert out["y"].tolist() == [[1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize("call, words", [
    ("y = own.F(x, x)", "2 inputs"), ("y, z = own.F(x)", "2 outputs"), ("y = own.F <wrong = 1> (x)", "no attribute wrong"),
    ("y = own.G(x)", "no such operator"),
])  # fmt: skip
def test_calls_that_do_not_fit(call, words):
    with pytest.raises(ImportProblem, match=words):
        run(
            "g (float[N] x) => (float[N] y) { "
            + call
            + ' }\n<domain: "own", opset_import: ["" : 18]> F (a) => (b) { b = Relu(a) }',
            x=[1],
        )


def test_a_function_that_does_not_define_its_output():
    body = '<domain: "own", opset_import: ["" : 18]> F (a) => (b) { c = Relu(a) }'
    with pytest.raises(ImportProblem, match="y is not computed"):
        run("g (float[N] x) => (float[N] y) { y = own.F(x) }\n" + body, x=[1])


def chain(count: int, calls: int) -> onnx.ModelProto:
    """f0 calls f1 `calls` times, which calls f2, ...; the last is one Relu."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for i in range(count):
        last = i == count - 1
        nodes = [
            helper.make_node("Relu" if last else f"f{i + 1}", ["a" if k == 0 else f"t{k - 1}"],
                             ["b" if k == calls - 1 else f"t{k}"], domain="" if last else "own")
            for k in range(calls)
        ]  # fmt: skip
        functions.append(helper.make_function("own", f"f{i}", ["a"], ["b"], nodes, opsets))
    x, y = (helper.make_tensor_value_info(n, 1, [2]) for n in "xy")
    g = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="own")], "g", [x], [y])
    return helper.make_model(g, opset_imports=opsets, functions=functions)


def test_exponential_growth_is_measured_before_it_happens():
    with pytest.raises(LimitError, match=r"Limits\.nodes"):
        read(chain(40, 2))
    assert len(read(chain(5, 2)).main) == 32
    with pytest.raises(LimitError):
        read(chain(5, 2), limits=Limits(nodes=31))


def test_deep_calls_stop_at_the_limit():
    assert len(read(chain(60, 1)).main) == 1
    for count in (80, 3000):
        with pytest.raises(LimitError, match=r"Limits\.depth"):
            read(chain(count, 1))


@pytest.mark.parametrize("loop", [1, 2])
def test_recursion_is_refused(loop):
    m = chain(loop, 1)
    node = m.functions[-1].node[0]
    node.op_type, node.domain = "f0", "own"
    with pytest.raises(HostileModelError, match="calls itself"):
        read(m)


def test_recursion_through_a_region_is_refused():
    m = parse_model(HEADER + """g (bool c, float[N] x) => (float[N] y) { y = own.F(c, x) }
        <domain: "own", opset_import: ["" : 18, "own" : 1]> F (p, a) => (b) {
            b = If (p) <then_branch = u () => (float[N] r) { r = own.F(p, a) }, else_branch = v () => (float[N] s) { s = Relu(a) }>
        }""")  # fmt: skip
    with pytest.raises(HostileModelError, match="calls itself"):
        read(m)


def test_two_functions_of_one_name_and_overloads():
    m = chain(1, 1)
    m.functions.append(m.functions[0])
    with pytest.raises(HostileModelError, match="twice"):
        read(m)
    m.functions[1].overload = "neg"
    m.functions[1].node[0].op_type = "Neg"
    m.graph.node[0].overload = "neg"
    assert interp.run(read(m), {"x": np.array([1, 2], np.float32)})["y"].tolist() == [-1, -2]


def test_a_cycle_in_a_function():
    m = chain(1, 2)
    m.functions[0].node[0].input[0] = "b"
    with pytest.raises(ImportProblem, match="cycle"):
        read(m)
