"""Every rule of the verifier has a test that breaks it; the comparison finds every kind of difference."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.core import Constant, Graph, Module, Node, Value
from graphmill.ir.errors import IRError
from graphmill.ir.layout import Layout
from graphmill.ir.op import OPS
from graphmill.ir.symbols import Symbol, symbol
from graphmill.ir.types import BOOL, F32, I64, SequenceType, TensorType
from graphmill.ir.verify import structurally_equal, verify
from strategies import random_ops

T = TensorType(F32, (2,))


@pytest.fixture(autouse=True, scope="module")
def operators():
    with random_ops():
        yield


def base() -> Module:
    """%a = relu(%x); %b = add(%a, %w); %c = t_loop with a body that captures %a; %d = t_fused over %b, %w."""
    m = Module("m", {"": 17})
    m.symbols["N"] = Symbol("N", 1, 64)
    x = m.main.add_input("x", T)
    w = m.add_const("w", np.zeros(2, np.float32))
    a = m.main.add(OPS["relu"], [x], names=["a"], types=[T], locs=["/a"]).result
    b = m.main.add(OPS["add"], [a, w], names=["b"], types=[T]).result
    body = Graph("body", m)
    i = body.add_input("i", T)
    inner = body.add(OPS["add"], [i, a], names=["inner"], types=[T]).result
    body.set_outputs([inner, b])
    m.main.add(OPS["t_loop"], [b], names=["c"], types=[T], regions=[body])
    fused = Graph("body", m)
    p, q = fused.add_input("b", T), fused.add_input("w", T)
    r = fused.add(OPS["add"], [p, q], names=["r"], types=[T]).result
    fused.set_outputs([r])
    d = m.main.add(OPS["t_fused"], [b, w], names=["d"], types=[T], regions=[fused]).result
    m.main.set_outputs([d])
    return m


def parts(m: Module) -> dict:
    a, b, c, d = m.main.nodes
    return {"m": m, "g": m.main, "a": a, "b": b, "c": c, "d": d, "x": m.main.inputs[0], "w": m.consts["w"], "body": c.regions[0],
            "fused": d.regions[0], "inner": c.regions[0].nodes[0], "r": d.regions[0].nodes[0]}  # fmt: skip


def test_the_base_is_valid():
    verify(base())


def add_use(v: Value, node: Node, i: int) -> None:
    v.uses[node, i] = None


def stray(m: Module) -> Value:
    return Module().main.add_input("stray", T)


def stray_const() -> Value:
    return Module().add_const("other", np.zeros(2, np.float32))


def add(p: dict, op: str, operands: list, attrs: dict | None = None, names: tuple = ("e",), regions: tuple = ()) -> None:
    p["g"].add(OPS[op], operands, attrs, names=names, regions=regions)


def retype(v: Value, t: TensorType | SequenceType) -> None:
    v.type = t


# Each entry breaks one rule of the base module, given its parts.
BROKEN = {
    "not defined before it": lambda p: p["g"].move(p["b"], before=p["a"]),
    r"operand a is %inner, which is not defined": lambda p: p["b"].set_operand(0, p["inner"].result),
    r"operand b is %stray": lambda p: p["b"].set_operand(1, stray(p["m"])),
    r"operand b is the constant %w; expected an isolated": lambda p: p["r"].set_operand(1, p["w"]),
    r"operand b is %x, which is not defined before it": lambda p: p["r"].set_operand(1, p["x"]),
    r"constant %other, which the module does not hold": lambda p: p["b"].set_operand(1, stray_const()),
    r"output 0 of the graph main is %inner": lambda p: p["g"].set_outputs([p["inner"].result]),
    r"output 0 of the region body is %c, which is not defined": lambda p: p["body"].set_outputs([p["c"].result]),
    r"output 0 of the region body is %x, which": lambda p: p["fused"].set_outputs([p["x"]]),
    r"operand 0 is %x, whose list of uses misses it": lambda p: p["x"].uses.clear(),
    r"%x lists 2 uses, expected 1": lambda p: add_use(p["x"], p["b"], 0),
    r"%a is listed as 1 outputs, expected 0": lambda p: p["a"].result.output_of.update({(p["g"], 0): None}),
    r"output 0 of the graph main is %d, whose list": lambda p: p["d"].result.output_of.clear(),
    r"the name %a is taken": lambda p: setattr(p["inner"].result, "name", "a"),
    r"the name %w is taken": lambda p: setattr(p["x"], "name", "w"),
    r"is called '', expected a name": lambda p: setattr(p["x"], "name", ""),
    r"operand b is missing": lambda p: add(p, "add", [p["x"]]),
    r"operand a is missing": lambda p: add(p, "add", [None, p["x"]]),
    r"3 operands, expected at most 2": lambda p: add(p, "add", [p["x"]] * 3),
    r"operand xs\[0\] is left out": lambda p: add(p, "t_any", [None]),
    r"operand x is %k of type bool\[\], expected one of": lambda p: add(p, "relu", [p["g"].add_input("k", TensorType(BOOL, ()))]),
    r"the attribute k is missing": lambda p: add(p, "t_opt", [p["x"]]),
    r"there is no attribute alpha, expected none": lambda p: p["a"].set_attr("alpha", 1),
    r"the attribute q is a list, expected": lambda p: add(p, "t_any", [], {"q": [1]}),
    r"the attribute q is a int64, expected": lambda p: add(p, "t_any", [], {"q": (np.int64(1),)}),
    r"equal their default": lambda p: p["d"].attrs.update(kernel="loops"),
    r"0 regions, expected 1: body": lambda p: add(p, "t_loop", [], names=[]),
    r"1 regions, expected 0: none": lambda p: add(p, "relu", [p["x"]], names=["e"], regions=[Graph("r", p["m"])]),
    r"2 results, expected 1": lambda p: add(p, "relu", [p["x"]], names=["e", "f"]),
    r"present and distinct": lambda p: p["d"].set_operand(1, p["b"].result),
    r"operand xs\[1\] is left out, expected a value": lambda p: p["d"].set_operand(1, None),
    r"2 inputs and 0 outputs, expected 2 and 1": lambda p: p["fused"].set_outputs([]),
    r"%b has type f32\[2\] outside of its region, f32\[3\] inside": lambda p: retype(p["fused"].inputs[0], TensorType(F32, (3,))),
    r"%d has type f32\[3\] outside": lambda p: retype(p["d"].result, TensorType(F32, (3,))),
    r"reads `sym \$Q`, which is not declared": lambda p: retype(p["a"].result, SequenceType(TensorType(F32, (symbol("Q"),)))),
    r"reads `sym \$N in \[1, 9\]`, which is declared otherwise: sym \$N in \[1, 64\]": lambda p: add(
        p, "t_any", [], {"q": (symbol("N", 1, 9),)}
    ),
    r"`sym \$Q`, which is not declared": lambda p: add(p, "t_any", [], {"q": TensorType(F32, (symbol("Q"),))}),
    r"the symbol \$N is filed under 'M'": lambda p: p["m"].symbols.update(M=Symbol("N")),
    r"layout of as many axes": lambda p: retype(p["a"].result, T.with_(layout=Layout((1, 0)))),
    r"holds 2.0 \(float\), expected int or Dim": lambda p: retype(p["a"].result, TensorType(F32, (2.0,))),
    r"belongs to another module or node": lambda p: setattr(p["body"], "parent", p["d"]),
    r"the main graph has a parent": lambda p: setattr(p["g"], "parent", p["d"]),
    r"input 0 of the graph main is %x, whose links": lambda p: setattr(p["x"], "index", 1),
    r"result 0 is %a, whose links": lambda p: setattr(p["a"].result, "node", p["b"]),
    r"links between the nodes are broken": lambda p: setattr(p["b"], "_prev", None),
    r"counts 5 nodes, expected 4": lambda p: setattr(p["g"], "_count", 5),
    r"filed among the constants as 'v'": lambda p: p["m"].consts.update(v=p["w"]),
    r"the constant %w holds f32\[2\], expected f32\[3\]": lambda p: retype(p["w"], TensorType(F32, (3,))),
    r"expected a tensor with constant dims": lambda p: retype(p["w"], TensorType(F32, None)),
    r"2 output names, expected one for each of the 1": lambda p: setattr(p["m"], "output_names", ["p", "q"]),
}  # fmt: skip


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_rule_is_found(message):
    m = base()
    BROKEN[message](parts(m))
    with pytest.raises(IRError, match=message):
        verify(m)


def test_isolated_regions_do_not_nest():
    m = base()
    region = parts(m)["fused"]
    inner = Graph("body", m)
    region.add(OPS["t_fused"], [], names=[], regions=[inner])
    with pytest.raises(IRError, match="isolated region inside of another"):
        verify(m)


def test_regions_nest_to_a_limit():
    m = Module()
    g = m.main
    for _ in range(80):
        inner = Graph("body", m)
        g.add(OPS["t_loop"], [], names=[], regions=[inner])
        g = inner
    with pytest.raises(IRError, match="nested at most 64 deep"):
        verify(m)


def test_values_without_types_are_not_type_checked():
    m = base()
    p = parts(m)
    for v in (p["x"], p["a"].result, p["inner"].result):
        v.type = None
    verify(m)


def test_the_message_stands_under_the_node():
    m = base()
    p = parts(m)
    p["b"].set_operand(0, p["inner"].result)
    with pytest.raises(IRError) as e:
        verify(m)
    assert str(e.value).split("\n") == [
        "add %b: operand a is %inner, which is not defined before it in a graph around it",
        '    %a = relu(%x) : f32[2] loc("/a")',
        "    %b = add(%inner, %w) : f32[2]",
        "    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
        "    operand a is %inner, which is not defined before it in a graph around it",
        "    %c = t_loop(%b) : f32[2] body (%i: f32[2]) { ... }",
        "    %d = t_fused(%b, %w) : f32[2] { ... }",
    ]


def test_opaque_operators_are_as_onnx_has_them():
    m = base()
    add(parts(m), "t_opaque", [None, m.main.inputs[0]], {"anything": 1})
    verify(m)


def test_long_lines_are_cut():
    m = base()
    add(parts(m), "t_any", [], {"big": (1,) * 1000, "bad": [1]})
    with pytest.raises(IRError) as e:
        verify(m)
    assert max(map(len, str(e.value).split("\n"))) < 200


# ---- comparison

DIFFERENCES = {
    "name:": lambda p: setattr(p["m"], "name", "n"),
    "opsets:": lambda p: p["m"].opsets.update({"": 18}),
    "meta:": lambda p: p["m"].meta.update(k="v"),
    "symbols:": lambda p: p["m"].symbols.update(M=Symbol("M")),
    "constants:": lambda p: p["m"].add_const("v", np.zeros(1)),
    "the contents of %w differ": lambda p: setattr(p["w"], "const", Constant(np.array([0.0, -0.0], np.float32))),
    "names of the inputs of the graph main": lambda p: setattr(p["x"], "name", "y"),
    "types of the inputs of the graph main": lambda p: retype(p["x"], None),
    "nodes of the graph main: 4 against 5": lambda p: add(p, "t_sink", [], names=[]),
    "the operator of %a": lambda p: setattr(p["a"], "op", OPS["t_any"]),
    "the operands of %b": lambda p: p["b"].set_operand(0, p["x"]),
    "the operands of %inner": lambda p: p["inner"].set_operand(0, p["a"].result),
    "the attributes of %d": lambda p: p["d"].set_attr("kernel", "gemm"),
    "the locations of %a": lambda p: setattr(p["a"], "locs", ()),
    "the outputs of the graph body of %d": lambda p: p["fused"].set_outputs([p["fused"].inputs[0]]),
    "names of the results of %a": lambda p: setattr(p["a"].result, "name", "aa"),
    "types of the results of %a": lambda p: retype(p["a"].result, TensorType(I64, (2,))),
    "the outputs of the graph main": lambda p: p["g"].set_outputs([p["x"]]),
    "names of outputs": lambda p: setattr(p["m"], "output_names", ["z"]),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_differences_are_found(difference):
    m = base()
    DIFFERENCES[difference](parts(m))
    found = structurally_equal(base(), m)
    assert found is not None and found.startswith(difference)


def test_what_does_not_count():
    m = base()
    p = parts(m)
    p["fused"].inputs[0].name = "other"
    p["a"].locs = ()
    m.output_names = ["d"]
    assert structurally_equal(base(), m, locs=False) is None
    p["w"].const = Constant(np.array([0.0, np.nan], np.float32))
    n = base()
    n.consts["w"].const = Constant(np.array([0, 0xFFC00001], np.uint32).view(np.float32))
    assert structurally_equal(n, m, locs=False) is None
