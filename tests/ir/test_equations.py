"""Rules written as equations."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401
import pytest
from graphmill.ir.equations import equation
from graphmill.ir.errors import IRError
from graphmill.ir.parser import parse_module
from graphmill.ir.rewrite import DecisionLog, refuse, rewrite
from graphmill.ir.verify import verify

TEXT = """module @m {opset = 17} {
  const %one : f32[1,1] = [1.0]
  const %half : f32[] = [0.5]
  graph @main(%x: f32[2], %y: f32[2]) -> %z, %w {
    %s = sigmoid(%x) : f32[2]
    %z = mul(%s, %x) : f32[2]
    %w = mul(%y, %one) : f32[1,2]
  }
}"""


def apply(text: str, guard=None) -> tuple:
    m = parse_module(TEXT)
    log = DecisionLog()
    rewrite(m, [equation(text, guard)], log)
    verify(m)
    return {n.name: n for n in m.main}, [str(d) for d in log.decisions]


def test_an_equation_is_applied() -> None:
    nodes, log = apply(" mul(x, sigmoid(x)) => swish(x, alpha=1.0)")
    assert nodes["z"].op.name == "swish" and log == ["mul(x, sigmoid(x)) => swish(x, alpha=1.0) @ %z: applied"]


def test_numbers_and_attributes_on_the_right() -> None:
    nodes, _ = apply("mul(x, sigmoid(x)) => add(leaky_relu(x, alpha=-0.25), 2)")
    leaky = nodes["z"].operands[0].node
    assert nodes["z"].op.name == "add" and nodes["z"].operands[1].array == 2 and leaky.attr("alpha") == -0.25


@pytest.mark.parametrize(
    ("guard", "reason"),
    [(lambda m: False, "the guard said no"), (lambda m: "too small", "too small"),
     (lambda m: refuse("size", n=m["x"].tensor.size), "size: n = 2")],
)  # fmt: skip
def test_a_guard_refuses(guard, reason: str) -> None:
    nodes, log = apply("mul(x, sigmoid(x)) => swish(x)", guard)
    assert nodes["z"].op.name == "mul" and log == [f"mul(x, sigmoid(x)) => swish(x) @ %z: refused, {reason}"]


@pytest.mark.parametrize("verdict", [None, True])
def test_a_guard_lets_pass(verdict) -> None:
    assert apply("mul(x, sigmoid(x)) => swish(x)", lambda m: verdict)[0]["z"].op.name == "swish"


def test_a_right_side_of_another_type_refuses() -> None:
    nodes, log = apply("mul(x, 1) => abs(x)")
    assert nodes["w"].op.name == "mul" and len(nodes) == 3
    assert log == ["mul(x, 1) => abs(x) @ %w: refused, types: result = f32[1,2], replacement = f32[2]"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("mul(x, y)", "no equation"), ("x => y", "must be a call"), ("mul(x, y) => add(x, z)", "does not bind"),
     ("nothing(x) => x", "no operator named 'nothing'"), ("mul(x, y) => nothing(x)", "no operator named 'nothing'"),
     ("mul(x, => x", "cannot be read"), ("cast(x, to=1) => x", "a pattern has no attributes"), ("mul(x, a.b) => x", "neither a call"),
     ("a.b(x) => x", "no operator's name"), ("mul(x, y) => add(x, [i for i in y])", "does not bind")],
)  # fmt: skip
def test_what_is_no_equation(text: str, message: str) -> None:
    with pytest.raises(IRError, match=message):
        equation(text)
