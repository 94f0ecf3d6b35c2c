"""The way in: graphs, names, dims, constants, regions and what a report of problems says."""

from __future__ import annotations

import json
import time

import numpy as np
import onnx
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir import interp
from graphmill.ir.errors import HostileModelError, ImportProblem, InputError, LimitError
from graphmill.ir.limits import Limits
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, I64, OptionalType, SequenceType, TensorType
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model


def model(body: str, opset: int = 18, ir: int = 9, imports: str = "") -> onnx.ModelProto:
    return parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{imports}]>\n{body}')


def problems(m: onnx.ModelProto, **kw) -> ImportProblem:
    with pytest.raises(ImportProblem) as e:
        read(m, **kw)
    return e.value


CHAIN = "g (float[N, 3] x) => (float[N, 3] y) { t = Relu(x)  y = Add(t, x) }"


@pytest.mark.parametrize("as_", ["proto", "bytes", "path", "str"])
def test_every_kind_of_source(tmp_path, as_):
    m = model(CHAIN)
    path = tmp_path / "m.onnx"
    path.write_bytes(m.SerializeToString())
    got = read({"proto": m, "bytes": m.SerializeToString(), "path": path, "str": str(path)}[as_])
    assert [n.op.name for n in got.main] == ["relu", "add"]
    assert [v.name for v in got.main.inputs] == ["x"] and got.output_names == ["y"] and got.main.outputs[0].name == "y"
    assert got.name == "g" and got.opsets == {"": 18}


def test_another_source_is_a_type_error():
    with pytest.raises(TypeError, match="ModelProto"):
        read(3)  # type: ignore[arg-type]


def test_node_names_become_locations():
    m = model(CHAIN)
    m.graph.node[0].name = "/act/Relu"
    assert [n.locs for n in read(m).main] == [("/act/Relu",), ()]


def test_dims_named_unnamed_negative_and_unknown_rank():
    m = model("g (float[N, 3, ?, N] x, float y) => (float z) { z = Relu(x) }")
    m.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    m.graph.input[1].type.tensor_type.ClearField("shape")
    x, y = (v.type for v in read(m).main.inputs)
    assert x == TensorType(F32, (symbol("N"), symbol("x.1"), symbol("x.2"), symbol("N")))
    assert y == TensorType(F32, None)


def test_derived_dim_names_never_meet_the_model_s_own():
    got = read(model("g (float[?] x, float[q] y) => (float z) { z = Relu(x) }"))
    assert set(got.symbols) == {"x.0", "q"}
    m = model("g (float[?] x, float[q] y) => (float z) { z = Relu(x) }")
    m.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "x.0"
    a, b = (v.type.shape for v in read(m).main.inputs)
    assert a != b and b == (symbol("x.0"),)


def test_shapes_fix_symbols():
    got = read(model("g (float[N, ?] x) => (float z) { z = Relu(x) }"), shapes={"N": 4, "x.1": 0})
    assert got.main.inputs[0].type.shape == (4, 0) and not got.symbols


@pytest.mark.parametrize("shapes, words", [({"M": 1}, "M.*N"), ({"N": -1}, "N"), ({"N": True}, "N")])
def test_shapes_that_fit_nothing(shapes, words):
    with pytest.raises(InputError, match=words):
        read(model(CHAIN), shapes=shapes)


def test_sequences_optionals_and_their_dims():
    m = model("g (seq(float[N]) s, optional(float[2]) o, seq(int64[2]) t) => (seq(float[N]) s) { }")
    assert [v.type for v in read(m).main.inputs] == [
        SequenceType(TensorType(F32, None)), OptionalType(TensorType(F32, (2,))), SequenceType(TensorType(I64, (2,)))]  # fmt: skip


def test_outputs_that_are_inputs_constants_and_each_other():
    m = model(
        "g (float[2] x) => (float[2] x, float[2] y, float[2] w, float[2] z) <float[2] w = {1, 2}> { y = Relu(x)  z = Identity(y) }"
    )
    m.graph.output[3].name = "y2"
    del m.graph.node[1]
    m.graph.node.append(helper.make_node("Relu", ["x"], ["y2"]))
    out = interp.run(read(m), {"x": np.array([-1, 1], np.float32)})
    assert list(out) == ["x", "y", "w", "y2"] and out["w"].tolist() == [1, 2] and out["x"].tolist() == [-1, 1]


def test_two_outputs_of_one_name_and_undefined_outputs():
    m = model(CHAIN)
    m.graph.output.extend([m.graph.output[0], helper.make_tensor_value_info("nowhere", 1, [1])])
    e = problems(m)
    assert any("one name" in p.message for p in e.problems) and any("nowhere" in p.message for p in e.problems)


def test_inputs_with_initializers_are_constants():
    m = model("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    if len(m.graph.input) == 1:
        m.graph.input.append(helper.make_tensor_value_info("w", 1, [2]))
    got = read(m)
    assert [v.name for v in got.main.inputs] == ["x"] and json.loads(got.meta["onnx.default_inputs"]) == ["w"]
    m.ir_version = 3
    assert "onnx.default_inputs" not in read(m).meta


def test_omitted_outputs():
    m = model("g (float[4, 4] x) => (float i) { y, i = MaxPool <kernel_shape = [2, 2]> (x) }")
    m.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 4
    m.graph.node[0].output[0] = ""
    got = read(m)
    (node,) = got.main
    assert [r.name for r in node.results] == ["i.0", "i"]
    m.graph.node[0].output[:] = ["i", ""]
    (node,) = read(m).main
    assert [r.name for r in node.results] == ["i"]


CONSTANTS = {
    "value": numpy_helper.from_array(np.array([[1, 2]], np.int32)), "value_int": 3, "value_ints": [1, 2], "value_float": 0.5,
    "value_floats": [0.5], "value_string": "ab", "value_strings": ["a", "b"],
    "sparse_value": helper.make_sparse_tensor(numpy_helper.from_array(np.array([5.0], np.float32), "v"),
                                              numpy_helper.from_array(np.array([1]), "i"), [3]),
}  # fmt: skip
WANTED = {
    "value": np.array([[1, 2]], np.int32), "value_int": np.array(3), "value_ints": np.array([1, 2]),
    "value_float": np.array(0.5, np.float32),
    "value_floats": np.array([0.5], np.float32),
    "value_string": np.array("ab", object), "value_strings": np.array(["a", "b"], object),
    "sparse_value": np.array([0, 5, 0], np.float32),
}  # fmt: skip


@pytest.mark.parametrize("form", CONSTANTS)
def test_constants_in_every_form(form):
    g = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], **{form: CONSTANTS[form]})], "g", [], [onnx.ValueInfoProto(name="c")]
    )
    got = read(helper.make_model(g, opset_imports=[helper.make_opsetid("", 18)]))
    array = got.main.outputs[0].array
    assert not len(got.main) and array.dtype == WANTED[form].dtype and array.shape == WANTED[form].shape
    assert array.tolist() == WANTED[form].tolist()


@pytest.mark.parametrize("attrs", [{}, {"value_int": 1, "value_float": 2.0}, {"value_int": 2.0}, {"nothing": 1}])
def test_constants_that_are_none(attrs):
    g = helper.make_graph([helper.make_node("Constant", [], ["c"], **attrs)], "g", [], [onnx.ValueInfoProto(name="c")])
    (p,) = problems(helper.make_model(g, opset_imports=[helper.make_opsetid("", 18)])).problems
    assert p.op == "Constant" and "expected" in p.message


def test_an_explicit_default_is_the_default():
    got = read(model("g (float[2] x) => (float y) { y = LeakyRelu <alpha = 0.01> (x) }"))
    assert next(iter(got.main)).attrs == {}


def test_floats_that_are_not_finite_stay():
    m = model("g (float[2] x) => (float y) { y = LeakyRelu <alpha = 0.5> (x) }")
    m.graph.node[0].attribute[0].f = float("nan")
    assert np.isnan(next(iter(read(m).main)).attr("alpha"))


IF = """g (bool c, float[2] x) => (float[2] y) {
    t = Relu(x)
    y = If (c) <
        then_branch = a () => (float[2] r) { s = Add(t, x)  r = Relu(s) },
        else_branch = b () => (float[2] r) <float[2] w = {3, 4}> { r = Add(w, t) }
    >
}"""


def test_regions_capture_and_their_initializers_are_hoisted():
    got = read(model(IF))
    node = got.main.nodes[-1]
    assert [r.name for r in node.regions] == ["then_branch", "else_branch"] and [v.name for v in node.captures()] == ["t", "x"]
    assert "w" in got.consts
    for c, want in ((True, [0, 4]), (False, [3, 6])):
        out = interp.run(got, {"c": np.array(c), "x": np.array([-1, 2], np.float32)})
        assert out["y"].tolist() == want


def test_a_region_s_name_hides_the_outer_one():
    m = model(IF.replace("s = Add(t, x)  r = Relu(s)", "x = Add(t, t)  r = Relu(x)"))
    out = interp.run(read(m), {"c": np.array(True), "x": np.array([1, 2], np.float32)})
    assert out["y"].tolist() == [2, 4]


def test_unsorted_nodes_are_sorted_with_what_regions_read():
    m = model(IF)
    first, second = m.graph.node[0], m.graph.node[1]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (second, first)]
    del m.graph.node[:]
    m.graph.node.extend(nodes)
    assert [n.op.name for n in read(m).main] == ["relu", "if"]


def test_region_inputs_have_fresh_symbols():
    m = model("""g (int64 n, bool c, float[N] x) => (float[N] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool k, float[N] s) => (bool k2, float[N] s2) { k2 = Identity(k) s2 = Relu(s) }>
    }""")
    got = read(m)
    loop = got.main.nodes[-1]
    (i, _, s) = loop.regions[0].inputs
    assert i.type == TensorType(I64, ()) and s.type.rank == 1 and s.type.shape != (symbol("N"),)


def test_the_report_names_all_problems():
    m = model("g (float[2] x) => (float[2] y) { t = Nonsense <a = 1> (x)  u = Relu <wrong = 2> (x)  y = Add(t, missing) }")
    m.graph.node[1].name = "/head/Relu"
    e = problems(m)
    lines = str(e).splitlines()
    assert lines[0] == "the model: 3 problems" and len(lines) == 4
    assert lines[2].startswith("  node /head/Relu (Relu, opset 18): the attribute wrong = 2 is unknown; expected")
    p = e.problems[1]
    assert (p.node, p.op, p.domain, p.opset, p.attribute) == ("/head/Relu", "Relu", "", 18, "wrong")
    assert json.loads(json.dumps(p.as_dict()))["attribute"] == "wrong"


def test_unknown_operators_are_guessed_at():
    (p,) = problems(model("g (float[2] x) => (float[2] y) { y = Reluu(x) }")).problems
    assert "Relu?" in p.hint and "converter" in p.hint


def test_a_node_of_a_newer_opset_is_said_to_be_newer(monkeypatch):
    monkeypatch.setattr(OPS, "by_onnx", lambda domain, op_type: None)
    (p,) = problems(model("g (float[2] x) => (float[2] y) { y = DFT(x) }", opset=13)).problems
    assert "opset 13 has no such operator" in p.message


def test_missing_operands_and_too_many():
    e = problems(model('g (float[2] x) => (float[2] y) { y = Add(x)  z = Add("", x)  w = Relu(x, x)  u = Relu() }'))
    assert [p.message for p in e.problems] == [
        "input 1 (b) is missing", "input 0 (a) is missing", "2 inputs are given", "input 0 (x) is missing"]  # fmt: skip


def test_too_many_outputs():
    (p,) = problems(model("g (float[2] x) => (float[2] y) { y, z = Relu(x) }")).problems
    assert p.message == "2 outputs are asked for"


def test_attribute_types_are_checked():
    m = model("g (float[2] x) => (float y) { y = LeakyRelu <alpha = 3> (x) }")
    (p,) = problems(m).problems
    assert p.attribute == "alpha" and "INT" in p.message and "FLOAT" in p.message
    a = m.graph.node[0].attribute[0]
    a.type, a.s = onnx.AttributeProto.FLOAT, b"x"
    assert "holds a value of type" in problems(m).problems[0].message


def test_attribute_types_left_out_as_early_exporters_did():
    m = model("g (float[2] x) => (float y) { y = LeakyRelu <alpha = 0.25> (x) }")
    m.graph.node[0].attribute[0].ClearField("type")
    assert next(iter(read(m).main)).attr("alpha") == 0.25


def test_one_attribute_twice():
    m = model("g (float[2] x) => (float y) { y = LeakyRelu <alpha = 0.25> (x) }")
    m.graph.node[0].attribute.append(helper.make_attribute("alpha", 0.5))
    assert "twice" in problems(m).problems[0].message


def test_older_forms_are_brought_up():
    m = model("g (float[2, 3] x) => (float[2, 3] y) <float[2] w = {1, 2}> { y = Add <axis = 0, broadcast = 1> (x, w) }", opset=6)
    out = interp.run(read(m), {"x": np.zeros((2, 3), np.float32)})
    assert out["y"].tolist() == [[1, 1, 1], [2, 2, 2]]


def test_types_are_inferred_where_an_older_form_asks():
    m = model(
        "g (float[2, 3] x) => (float[2, 3] y) <float[2] w = {1, 2}> { t = Relu(x)  y = Add <axis = 0, broadcast = 1> (t, w) }",
        opset=6,
    )
    out = interp.run(read(m), {"x": np.zeros((2, 3), np.float32)})
    assert out["y"].tolist() == [[1, 1, 1], [2, 2, 2]]


def test_the_domain_ai_onnx_is_the_default_one():
    m = model(CHAIN)
    m.opset_import[0].domain = "ai.onnx"
    m.graph.node[0].domain = "ai.onnx"
    assert len(read(m).main) == 2


@pytest.mark.parametrize("change, words", [
    (lambda m: setattr(m, "ir_version", 99), "IR version is 99"),
    (lambda m: setattr(m, "ir_version", 0), "IR version is 0"),
    (lambda m: m.ClearField("opset_import"), "no opset_import"),
    (lambda m: setattr(m.opset_import[0], "version", 99), f"opset 99 .* 1 to {onnx.defs.onnx_opset_version()}"),
    (lambda m: setattr(m.opset_import[0], "version", 0), "opset 0"),
    (lambda m: setattr(m.opset_import[0], "version", 1 << 40), "opset 1099511627776"),
    (lambda m: setattr(m.opset_import[0], "domain", "other"), "ai.onnx is not in the model's opset_import"),
    (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 3)), "versions 18 and 3"),
    (lambda m: setattr(m.graph.node[0], "domain", "nobody"), "nobody is not in the model's opset_import"),
    (lambda m: m.graph.input.append(m.graph.input[0]), "name that another has"),
    (lambda m: m.graph.input.append(onnx.ValueInfoProto(name="untyped")), "no type"),
    (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99), "element type 99"),
    (lambda m: m.graph.node[1].output.__setitem__(0, "t"), "defined already"),
    (lambda m: m.graph.node[1].output.append("y"), "defined already"),
    (lambda m: m.graph.node[0].input.__setitem__(0, "y"), "cycle"),
    (lambda m: m.graph.node[0].input.__setitem__(0, "t"), "cycle"),
])  # fmt: skip
def test_models_that_break_a_rule(change, words):
    import re

    m = model(CHAIN)
    change(m)
    assert re.search(words, str(problems(m)))


def test_ir_versions_before_opset_imports_mean_opset_1():
    m = model(CHAIN, ir=2)
    m.ClearField("opset_import")
    assert read(m).opsets == {"": 1}


def test_an_initializer_that_is_also_a_node_s_output():
    m = model(CHAIN)
    m.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "t"))
    assert "defined already" in str(problems(m))


def test_names_with_code_and_control_characters_are_only_names():
    m = model("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    evil = '"); import os; os.abort()\n\x1b[2J\u202e'
    m.graph.input[0].name = m.graph.node[0].input[0] = m.graph.node[0].name = evil
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = evil
    got = read(m)
    assert got.main.inputs[0].name == evil and list(got.symbols) == [evil] and got.main.nodes[0].locs == (evil,)
    m.graph.node[0].op_type = evil
    message = str(problems(m))
    assert message.isascii() and len(message.splitlines()) == 2


def test_names_that_are_no_text():
    raw = (
        model("g (float[N] x) => (float[N] y) { tttt = Relu(x)  y = Relu(tttt) }")
        .SerializeToString()
        .replace(b"tttt", b"t\xff\xfet")
    )
    with pytest.raises(HostileModelError, match="UTF-8"):
        read(raw)


def test_a_long_chain_reads_quickly_and_the_limit_on_nodes_holds():
    count = 100_000
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    g = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("v0", 1, [2])], [helper.make_tensor_value_info(f"v{count}", 1, [2])]
    )
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", 18)])
    raw = m.SerializeToString()
    started = time.process_time()
    assert len(read(raw, limits=Limits(nodes=count)).main) == count
    assert time.process_time() - started < 30  # a quadratic reader would take hours
    with pytest.raises(LimitError, match=r"Limits\.nodes"):
        read(raw, limits=Limits(nodes=count - 1))


def nested(levels: int) -> bytes:
    """A model of so many Ifs one in another, written without onnx's helpers, which could not copy it."""

    def field(number: int, body: bytes) -> bytes:
        size, out = len(body), bytearray([number << 3 | 2])
        while size > 0x7F:
            out.append(size & 0x7F | 0x80)
            size >>= 7
        return bytes(out) + bytes([size]) + body

    leaf = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "g", [], [helper.make_tensor_value_info("r", 1, [2])])
    plain = field(6, leaf.SerializeToString())
    graph = leaf.SerializeToString()
    for i in range(levels):
        branches = ((b"then_branch", field(6, graph)), (b"else_branch", plain))
        attributes = [field(5, field(1, name) + body + b"\xa0\x01\x05") for name, body in branches]
        outer = onnx.GraphProto(name="g", output=[helper.make_tensor_value_info(f"o{i}", 1, [2])])
        if i == levels - 1:
            outer.input.extend(
                [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [2])]
            )
        graph = (
            field(1, helper.make_node("If", ["c"], [f"o{i}"]).SerializeToString() + b"".join(attributes))
            + outer.SerializeToString()
        )
    m = onnx.ModelProto(ir_version=9, opset_import=[helper.make_opsetid("", 18)])
    return m.SerializeToString() + field(7, graph)


def test_ifs_nest_as_deep_as_the_limit():
    assert sum(n.op.name == "if" for n in read(nested(20)).walk()) == 20
    with pytest.raises(LimitError, match=r"Limits\.depth"):
        read(nested(20), limits=Limits(depth=19))
    for levels in (60, 5000):
        with pytest.raises(HostileModelError, match="nested deeper"):
            read(nested(levels))


def test_many_problems_are_cut_short_in_the_message_only():
    nodes = [helper.make_node(f"No{i}", ["x"], [f"v{i}"]) for i in range(300)]
    g = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [2])], [])
    e = problems(helper.make_model(g, opset_imports=[helper.make_opsetid("", 18)]))
    assert len(e.problems) == 300 and len(str(e).splitlines()) == 52 and str(e).endswith("... and 250 more")
