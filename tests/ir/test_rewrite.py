"""The driver of rewrites: matching, safety, names, types, the log of decisions."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401
import numpy as np
import pytest
from graphmill.ir.core import Module
from graphmill.ir.errors import IRError
from graphmill.ir.op import OPS
from graphmill.ir.parser import parse_module
from graphmill.ir.rewrite import (
    ANY,
    Builder,
    DecisionLog,
    Facts,
    Pattern,
    Rule,
    is_scalar_constant,
    match,
    refuse,
    rewrite,
    scalar_constant,
)
from graphmill.ir.types import F32, F64, TensorType
from graphmill.ir.verify import verify


def module(body: str, inputs: str = "%x: f32[2], %y: f32[2]", outputs: str = "%z", consts: str = "") -> Module:
    return parse_module(f"module @m {{opset = 17}} {{\n{consts}\n graph @main({inputs}) -> {outputs} {{\n{body}\n }}\n}}")


def node(m: Module, name: str):
    return next(n for n in m.walk() if n.name == name)


# ---- matching ---------------------------------------------------------------------------------------------------


def test_a_commutative_operator_matches_both_ways_also_within_another() -> None:
    """The inner sum must be tried the other way round for the outer product to find its `a`."""
    m = module("%s = add(%y, %x) : f32[2]\n%z = mul(%s, %x) : f32[2]")
    found = match(Pattern("mul", Pattern("add", "a", "b"), "a"), node(m, "z"))
    assert found is not None and found["a"].name == "x" and found["b"].name == "y"
    assert [n.name for n in found.inner] == ["s"]


def test_a_name_binds_one_value_and_a_bind_one_node() -> None:
    m = module("%s = neg(%x) : f32[2]\n%t = neg(%x) : f32[2]\n%z = mul(%s, %t) : f32[2]")
    assert match(Pattern("mul", "a", "a"), node(m, "z")) is None
    assert match(Pattern("mul", Pattern("neg", "a"), Pattern("neg", "a")), node(m, "z")) is not None
    same = Pattern("neg", "a", bind="n")
    assert match(Pattern("mul", same, same), node(m, "z")) is None
    m = module("%s = neg(%x) : f32[2]\n%z = mul(%s, %s) : f32[2]")
    found = match(Pattern("mul", same, same), node(m, "z"))
    assert found is not None and found.inner == [node(m, "s")]


def test_optional_operands_and_any() -> None:
    m = module("%z = clip(%x, _, %y1) : f32[2]", inputs="%x: f32[2], %y1: f32[]")
    z = node(m, "z")
    assert match(Pattern("clip", "x", None, "h"), z) is not None
    assert match(Pattern("clip", "x", "l", "h"), z) is None
    assert match(Pattern("clip", "x", ANY, "h"), z) is not None
    assert match(Pattern("clip", "x", None, None), z) is None
    assert match(Pattern("clip", "x", None, "h", "more"), z) is None


def test_what_another_graph_computes_is_not_matched() -> None:
    m = module(
        "%s = neg(%x) : f32[2]\n%z = if(%c) : f32[2] then_branch () {\n%t = neg(%s) : f32[2]\nyield %t\n} else_branch () {\nyield %x\n}",
        inputs="%x: f32[2], %c: bool[]",
    )
    assert match(Pattern("neg", Pattern("neg", "x")), node(m, "t")) is None


@pytest.mark.parametrize(
    ("value", "number", "same"),
    [(2.0, 2, True), (2.001, 2, False), (0.044715, 0.044715, True), (np.float16(0.044715), 0.044715, True), (0.0448, 0.044715, False),
     (0.0, 0, True), (1e-30, 0, False), (np.inf, np.inf, True), (np.nan, 1.0, False), (2, 2, True)],
)  # fmt: skip
def test_numbers_that_f16_holds_must_be_exact(value, number: float, same: bool) -> None:
    v = Module().add_const("c", np.asarray(value))
    assert is_scalar_constant(v, number) is same


def test_scalar_constants() -> None:
    m = Module()
    assert scalar_constant(m.add_const("a", np.array([[3]], np.int64))) == 3
    assert scalar_constant(m.add_const("b", np.array([1, 2]))) is None
    assert scalar_constant(m.add_const("c", np.array(["a"], object))) is None
    assert scalar_constant(m.add_const("d", np.array(1 + 2j, np.complex64))) is None
    assert not is_scalar_constant(m.add_const("e", np.array(["a"], object)), 1) and scalar_constant(None) is None


# ---- applying ---------------------------------------------------------------------------------------------------

NEG_NEG = Rule("neg(neg(x)) => x", Pattern("neg", Pattern("neg", "x")), lambda m, b: m["x"])


def apply(m: Module, *rules: Rule) -> DecisionLog:
    log = DecisionLog()
    rewrite(m, rules, log)
    verify(m)
    return log


@pytest.mark.parametrize(
    ("outputs", "reader"),
    [("%z, %w", "%w = exp(%s) : f32[2]"), ("%z, %s", ""), ("%z, %w", "%w = if(%c) : f32[2] then_branch () {\nyield %s\n} else_branch () {\n"
      "%e = exp(%s) : f32[2]\nyield %e\n}")],
    ids=["another node", "an output", "a region"],
)  # fmt: skip
def test_an_inner_value_that_is_read_elsewhere_refuses(outputs: str, reader: str) -> None:
    body = f"%s = neg(%x) : f32[2]\n%z = neg(%s) : f32[2]\n{reader}"
    m = module(body, inputs="%x: f32[2], %c: bool[]", outputs=outputs)
    (d,) = apply(m, NEG_NEG).decisions
    assert d.outcome == "refused" and d.reason.startswith("outside-use: value = %s") and node(m, "z")
    m = module(body, inputs="%x: f32[2], %c: bool[]", outputs=outputs)
    keeps = Rule(NEG_NEG.name, NEG_NEG.pattern, NEG_NEG.build, keeps_inner=True)
    assert apply(m, keeps).decisions[0].outcome == "applied" and node(m, "s") and m.main.outputs[0].name == "x"


def test_new_values_take_the_names_and_the_sources_of_old_ones() -> None:
    m = module('%s = neg(%x) : f32[2] loc("a")\n%z = exp(%s) : f32[2] loc("b")')
    rule = Rule("exp(neg(x)) => reciprocal(exp(x))", Pattern("exp", Pattern("neg", "x")),
                lambda m, b: b.op("reciprocal", b.op("exp", m["x"])))  # fmt: skip
    (d,) = apply(m, rule).decisions
    z = node(m, "z")
    assert z.op.name == "reciprocal" and z.locs == ("a", "b") and d.nodes == ("b", "a") and len(m.main) == 2


def test_a_value_that_was_there_before_keeps_its_name() -> None:
    m = module("%z.more = exp(%x) : f32[2]\n%z = neg(%z.more) : f32[2]\n%w = neg(%z) : f32[2]", outputs="%w")
    apply(m, NEG_NEG)
    assert m.main.outputs[0].name == "z.more"


def test_a_rule_that_changes_the_type_is_an_error() -> None:
    m = module("%z = neg(%x) : f32[2]")
    wrong = Rule("wrong", Pattern("neg", "x"), lambda m, b: b.op("cast", m["x"], to=F64))
    with pytest.raises(IRError, match=r"would replace %z: f32\[2\] by a value of type f64\[2\]"):
        apply(m, wrong)


def test_a_rule_that_refuses_after_it_added_nodes_is_an_error_unless_it_undoes() -> None:
    def late(m, b: Builder):
        b.op("exp", b.op("abs", m["x"]))
        return refuse("too late")

    def undone(m, b: Builder):
        b.op("exp", b.op("abs", m["x"]))
        b.undo()
        return refuse("in time", x=m["x"])

    with pytest.raises(IRError, match="refused after it had added nodes"):
        apply(module("%z = neg(%x) : f32[2]"), Rule("late", Pattern("neg", "x"), late))
    m = module("%z = neg(%x) : f32[2]")
    (d,) = apply(m, Rule("undone", Pattern("neg", "x"), undone)).decisions
    assert str(d) == "undone @ %z: refused, in time: x = %x" and len(m.main) == 1


def test_rules_that_undo_one_another_end_in_an_error() -> None:
    there = Rule("there", Pattern("neg", "x"), lambda m, b: b.op("abs", m["x"]))
    back = Rule("back", Pattern("abs", "x"), lambda m, b: b.op("neg", m["x"]))
    with pytest.raises(IRError, match="more than 50 rewrites"):
        rewrite(module("%z = neg(%x) : f32[2]"), [there, back], DecisionLog(), limit=50)


def test_fused_regions_are_left_alone() -> None:
    text = "%z = fused(%x) : f32[2] {\n%a = neg(%x) : f32[2]\n%b = neg(%a) : f32[2]\nyield %b\n}"
    m = module(text)
    assert not apply(m, NEG_NEG).decisions


def test_equal_decisions_are_counted_and_the_log_is_capped() -> None:
    m = module("%z = neg(%x) : f32[2]")
    log = DecisionLog(cap=1)
    for _ in range(3):
        log.record("r", node(m, "z"), "refused", "why")
    log.record("other", node(m, "z"), "applied")
    (d,) = log.decisions
    assert str(d) == "r @ %z: refused, why (3 times)" and log.dropped == 1


def test_facts() -> None:
    m = parse_module("module @m {opset = 17} {\n sym $N\n sym $M\n graph @main(%x: f32[$N,2*$M]) -> %x {\n }\n}")
    assert Facts(m).known == {"N"}  # a run does not solve 2 * M for M
    assert Facts(m).names["x"] == 1


def test_a_long_chain_is_rewritten_in_one_walk() -> None:
    """Each rewrite of a chain of 20,000 nodes looks at its own neighbourhood only: the work does not grow with the square."""
    attempts = 0

    def build(m, b):
        nonlocal attempts
        attempts += 1
        return m["x"]

    m = Module()
    v = m.main.add_input("x", TensorType(F32, (2,)))
    for _ in range(20_000):
        v = m.main.add(OPS["neg"], [v], names=["v"], types=[v.type]).result
    m.main.set_outputs([v])
    assert rewrite(m, [Rule("neg(neg(x)) => x", NEG_NEG.pattern, build)], DecisionLog()) == 10_000
    assert attempts == 10_000 and len(m.main) == 0
