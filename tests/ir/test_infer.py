"""Inference over graphs: contents of shape arithmetic, regions, carried types, symbols."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401
import numpy as np
import pytest
from graphmill.ir import interp
from graphmill.ir.core import Module
from graphmill.ir.errors import InferenceError
from graphmill.ir.infer import contents, infer_module, input_symbols, join
from graphmill.ir.parser import parse_module
from graphmill.ir.types import F32, I64, OptionalType, SequenceType, TensorType
from graphmill.ir.verify import verify


def inferred(body: str, inputs: str = "%x: f32[$N,3]", outputs: str = "", consts: str = "") -> dict[str, str]:
    outputs = outputs or "%x"
    m = parse_module(
        f"module @m {{opset = 17}} {{\n sym $N in [1, inf]\n{consts}\n graph @main({inputs}) -> {outputs} {{\n{body}\n }}\n}}"
    )
    infer_module(m)
    before = {r.name: str(r.type) for n in m.walk() for r in n.results}
    infer_module(m)
    assert before == {r.name: str(r.type) for n in m.walk() for r in n.results}  # inferring twice gives the same types and symbols
    verify(m)
    return before


def test_contents_follow_shape_arithmetic() -> None:
    m = parse_module(
        """module @m {opset = 17} {
  sym $N in [1, inf]
  const %two : i64[] = [2]
  const %first : i64[1] = [0]
  const %rest : i64[1] = [-1]
  graph @main(%x: f32[$N,3,4]) -> %y {
    %s = shape(%x) : ?
    %n = gather(%s, %first) : ?
    %d = mul(%n, %two) : ?
    %t = concat(%d, %rest) {axis = 0} : ?
    %y = reshape(%x, %t) : ?
  }
}"""
    )
    infer_module(m)
    by_name = {n.name: n.result for n in m.main}
    assert [str(d) for d in contents(by_name["s"])] == ["$N", "3", "4"]
    assert [str(d) for d in contents(by_name["t"])] == ["2*$N", "-1"]
    assert str(by_name["y"].type) == "f32[2*$N,6]"
    assert contents(None) is None and contents(by_name["y"]) is None
    assert contents(m.add_const("big", np.zeros(2000, np.int64))) is None


def test_a_loop_joins_what_enters_with_what_the_body_returns() -> None:
    got = inferred(
        """%y, %s = loop(%m, _, %x) : ?, ? body (%i: i64[], %go: bool[], %v: f32[$N,3]) {
%w = concat(%v, %v) {axis = 0} : ?
%u = reduce_sum(%v) : ?
yield %go, %w, %u
}""",
        outputs="%y, %s",
        inputs="%x: f32[$N,3], %m: i64[]",
    )
    assert got["w"] == "f32[2*$v.0,3]" and got["u"] == "f32[1,1]"
    assert got["y"].startswith("f32[$") and got["y"].endswith(",3]") and got["y"] != "f32[$N,3]"


def test_a_loop_whose_rank_changes_has_an_unknown_rank() -> None:
    got = inferred(
        """%y = loop(%m, _, %x) : ? body (%i: i64[], %go: bool[], %v: f32[$N,3]) {
%w = unsqueeze(%v, %axis) : ?
yield %go, %w
}""",
        outputs="%y",
        inputs="%x: f32[$N,3], %m: i64[]",
        consts=" const %axis : i64[1] = [0]",
    )
    assert got["y"] == "f32[*]"


def test_branches_join() -> None:
    got = inferred(
        """%y = if(%c) : ? then_branch () {
%a = neg(%x) : ?
yield %a
} else_branch () {
%b = concat(%x, %x) {axis = 1} : ?
yield %b
}""",
        outputs="%y",
        inputs="%x: f32[$N,3], %c: bool[]",
    )
    assert got["y"].startswith("f32[$N,$")


def test_scan_slices_its_inputs() -> None:
    got = inferred(
        """%s, %y = scan(%z, %x) {num_scan_inputs = 1} : ?, ? body (%a: f32[3], %v: f32[3]) {
%b = add(%a, %v) : ?
yield %b, %b
}""",
        outputs="%s, %y",
        inputs="%x: f32[$N,3], %z: f32[3]",
    )
    assert got["b"] == "f32[3]" and got["s"] == "f32[3]" and got["y"] == "f32[$N,3]"


def test_errors_name_the_node() -> None:
    with pytest.raises(InferenceError, match=r"node /layer/MatMul \(matmul\): .*inner dimensions"):
        inferred('%y = matmul(%x, %x2) : ? loc("/layer/MatMul")', inputs="%x: f32[2,3], %x2: f32[4,5]", outputs="%y")
    with pytest.raises(InferenceError, match=r"node %y \(split\)"):
        inferred("%y = split(%x) {axis = 1, num_outputs = 1} : ?", inputs="%x: f32[]", outputs="%y")


def test_input_symbols_are_those_that_a_run_can_bind() -> None:
    m = parse_module(
        "module @m {opset = 17} {\n sym $N\n sym $M\n sym $K\n graph @main(%x: f32[$N,2*$M], %y: i64[$K]) -> %x {\n }\n}"
    )
    assert input_symbols(m) == {"N", "K"}


def test_join() -> None:
    m = Module()
    v = m.main.add_input("v", TensorType(F32, (2, 3)))
    a, b = TensorType(F32, (2, 3)), TensorType(F32, (2, 4))
    assert join(a, a, v) is a and join(None, a, v) is a and join(a, None, v) is a
    assert str(join(a, b, v)) == "f32[2,$v.1]" and join(a, b, v) == join(a, b, v)
    assert str(join(a, TensorType(F32, (2,)), v)) == "f32[*]" and join(a, TensorType(I64, (2, 3)), v) is None
    assert str(join(SequenceType(a), SequenceType(b), v)) == "seq<f32[2,$v.1]>"
    assert str(join(OptionalType(a), a, v)) == "opt<f32[2,3]>"


def test_dims_that_grow_with_every_node_become_symbols() -> None:
    from graphmill.ir.infer import MAX_DIM
    from graphmill.ir.symbols import size_of

    lines = ["    %v0 = max_pool(%x) {kernel_shape = [2]} : ?"]
    lines += [f"    %v{i + 1} = max_pool(%v{i}) {{kernel_shape = [2]}} : ?" for i in range(200)]
    text = "module @m {opset = 17} {\n  sym $N\n  graph @main(%x: f32[1,1,$N]) -> %v200 {\n" + "\n".join(lines) + "\n  }\n}\n"
    module = parse_module(text)
    infer_module(module)
    sizes = [size_of(d) for n in module.main for d in n.result.tensor.shape or ()]
    assert max(sizes) <= MAX_DIM
    assert interp.run(module, {"x": np.arange(300, dtype=np.float32).reshape(1, 1, 300)})["v200"].shape == (1, 1, 99)


def test_layouts_are_not_inferred() -> None:
    """What was typed keeps its layout, or that it has none, whatever its operand has; what was not gets none of another rank."""
    m = parse_module("""module @m {opset = 17} {
      const %axes : i64[1] = [3]
      graph @main(%x: f32[1,4,5]{nwc}) -> %u {
        %t = transpose(%x) {perm = [0,2,1]} : f32[1,5,4]
        %u = unsqueeze(%t, %axes) : f32[1,5,4,1]
      }
    }""")
    infer_module(m)
    verify(m)
    assert [str(n.results[0].type) for n in m.main] == ["f32[1,5,4]", "f32[1,5,4,1]"]
