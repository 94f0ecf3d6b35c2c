"""Graph mutation: uses, outputs and links stay right, whatever is done through Graph's methods."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.core import Constant, Graph, Module, Node
from graphmill.ir.errors import IRError
from graphmill.ir.op import OPS
from graphmill.ir.types import F32, TensorType
from graphmill.ir.verify import structurally_equal, verify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import modules, random_ops

T = TensorType(F32, (2,))


@pytest.fixture(autouse=True, scope="module")
def operators():
    with random_ops():
        yield


def chain(n: int = 4) -> tuple[Module, list[Node]]:
    """%n0 = relu(%x), %n1 = relu(%n0), ...; the last one is returned."""
    m = Module()
    v = m.main.add_input("x", T)
    for i in range(n):
        v = m.main.add(OPS["relu"], [v], names=[f"n{i}"], types=[T]).result
    m.main.set_outputs([v])
    return m, m.main.nodes


# ---- names and constants


def test_taken_names_get_a_suffix():
    m = Module()
    assert [m.fresh(n) for n in ("a", "a", "a.1", "a", "", "")] == ["a", "a.1", "a.1.1", "a.2", "v", "v.1"]
    assert m.claim("a") == "a" and m.fresh("a") == "a.3"


def test_symbols_are_new():
    m = Module()
    names = [m.fresh_symbol("n").name, m.fresh_symbol("n", 1, 5).name, m.fresh_symbol("n.1").name]
    assert names == ["n", "n.1", "n.1.1"] and (m.symbols["n.1"].lo, m.symbols["n.1"].hi) == (1, 5)


def test_constants():
    m, (first, *_) = chain()
    w = m.add_const("w", np.ones(2, np.float32))
    first.set_operand(0, w)
    with pytest.raises(IRError, match="still in use"):
        m.remove_const(w)
    first.set_operand(0, m.main.inputs[0])
    m.remove_const(w)
    assert not m.consts
    with pytest.raises(TypeError, match="either its array or the way"):
        Constant()


def test_constants_load_once_and_hash_by_contents():
    calls = []

    def load():
        calls.append(1)
        return np.arange(3)

    lazy = Constant(load=load)
    assert lazy.sha256 == Constant(np.arange(3)).sha256 and lazy.array is lazy.array and calls == [1]
    strings = [np.array(["a", "b"], object), np.array(["ab", ""], object)]
    different = [np.arange(3, dtype=np.int32), np.arange(3).reshape(3, 1), *strings]
    assert len({Constant(a).sha256 for a in different}) == 4
    assert Constant(np.arange(6).reshape(2, 3).T).sha256 == Constant(np.ascontiguousarray(np.arange(6).reshape(2, 3).T)).sha256
    assert Constant(load=load, sha256="known").sha256 == "known" and calls == [1]


# ---- nodes


def test_defaults_are_not_stored():
    m = Module()
    n = m.main.add(OPS["t_two"], [], {"b": 1, "alpha": 1.0, "a": 2}, names=[], locs=["/p", "/q", "/p"])
    assert list(n.attrs) == ["a", "b"] and n.attr("alpha") == 1.0 and n.locs == ("/p", "/q")
    assert n.all_attrs() == {"alpha": 1.0, "a": 2, "b": 1}
    n.set_attr("alpha", 2.0)
    assert n.attrs["alpha"] == 2.0
    n.set_attr("alpha", 1.0)
    assert "alpha" not in n.attrs
    with pytest.raises(KeyError):
        n.attr("nope")


def test_result_and_name():
    m, (first, *_) = chain()
    assert first.name == "n0" and first.result.node is first
    pair = m.main.add(OPS["t_two"], [], names=["p", "q"])
    with pytest.raises(IRError, match="2 results, expected one"):
        _ = pair.result
    assert m.main.add(OPS["t_sink"], [], names=[]).name == "t_sink"


# ---- mutation


def test_move_keeps_the_order():
    m, (a, b, c, d) = chain()
    g = m.main
    for v in (b, c, d):
        v.set_operand(0, g.inputs[0])
    g.move(d, before=a)
    assert g.nodes == [d, a, b, c]
    g.move(d, before=None)
    g.move(a, before=a)
    g.move(b, before=c)
    assert g.nodes == [a, b, c, d] and list(reversed(g)) == [d, c, b, a] and len(g) == 4
    verify(m)


def test_move_into_a_region():
    m, (a, b, *_) = chain()
    body = Graph("body", m)
    m.main.add(OPS["t_loop"], [], names=[], regions=[body], before=b)
    body.move(a, None)
    assert a.graph is body and a.result.graph is body and len(body) == 1 and len(m.main) == 4
    b.set_operand(0, m.main.inputs[0])
    verify(m)


def test_remove_and_replace():
    m, (a, b, c, d) = chain()
    with pytest.raises(IRError, match="%n1 of relu is still in use"):
        m.main.remove(b)
    m.main.replace(b, [a.result])
    assert c.operands == [a.result] and b.graph is None and list(a.result.uses) == [(c, 0)]
    m.main.replace(d, [a.result])
    assert m.main.outputs == [a.result] and list(a.result.output_of) == [(m.main, 0)]
    m.main.remove(c)
    assert m.main.nodes == [a]
    verify(m)
    with pytest.raises(ValueError):
        m.main.replace(a, [])


def test_replace_reaches_captures_and_region_outputs():
    m, (a, b, *_) = chain()
    body = Graph("body", m)
    inner = body.add(OPS["add"], [b.result, b.result], names=["inner"])
    body.set_outputs([b.result, inner.result, b.result])
    loop = m.main.add(OPS["t_loop"], [], names=[], regions=[body])
    assert loop.captures() == [b.result] and b.result.is_output
    m.main.replace_uses(b.result, a.result)
    assert inner.operands == [a.result] * 2 and body.outputs == [a.result, inner.result, a.result]
    assert b.result.is_dead and loop.captures() == [a.result]
    m.main.remove(b)
    verify(m)
    m.main.remove(loop)
    assert set(a.result.users) == {m.main.nodes[1]} and not a.result.output_of
    verify(m)


def test_a_removed_region_gives_up_all_that_it_read():
    m, (a, *_) = chain()
    outer, nested = Graph("body", m), Graph("body", m)
    i = outer.add_input("i", T)
    nested.add(OPS["add"], [a.result, i], names=["deep"])
    nested.set_outputs([a.result, i])
    outer.add(OPS["t_loop"], [a.result], names=[], regions=[nested])
    loop = m.main.add(OPS["t_loop"], [a.result], names=[], regions=[outer])
    assert loop.captures() == [a.result] and [g.name for g in m.main.graphs()] == ["main", "body", "body"]
    assert len(list(m.walk())) == 7
    m.main.remove(loop)
    verify(m)
    assert len(a.result.uses) == 1 and not a.result.output_of


def test_iteration_allows_change_at_the_node():
    m, _ = chain()
    seen = []
    for node in m.main:
        seen.append(node.name)
        if node.name in ("n1", "n3"):
            m.main.replace(node, [node.operands[0]])
        elif node.name == "n2":
            m.main.add(OPS["relu"], [node.result], names=["after"], before=node._next)
    assert seen == ["n0", "n1", "n2", "after", "n3"]
    assert [n.name for n in m.main] == ["n0", "n2", "after"]
    for node in reversed(m.main):
        if node.result.is_dead:
            m.main.remove(node)
    verify(m)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(modules(), st.data())
def test_random_mutation_keeps_every_rule(m, data):
    for _ in range(data.draw(st.integers(1, 8))):
        graphs = list(m.main.graphs())
        g = data.draw(st.sampled_from(graphs))
        if len(g):
            mutate(g, data.draw(st.sampled_from(g.nodes)), data)
    verify(m)
    assert structurally_equal(m, m) is None
    assert list(reversed(m.main)) == m.main.nodes[::-1]


def mutate(g: Graph, node: Node, data: st.DataObject) -> None:
    """One random change at `node` that keeps the program valid."""
    m, act = g.module, data.draw(st.sampled_from(["remove", "insert", "wrap", "operand", "reorder", "const", "outputs"]))
    if act == "remove" and all(r.is_dead for r in node.results):
        g.remove(node)
    elif act == "insert":
        g.add(OPS["t_any"], [v for v in node.operands if v is not None], names=["new"], before=node)
    elif act == "wrap" and node.results:
        old = node.results[0]
        readers, returns = list(old.uses), list(old.output_of)
        new = g.add(OPS["t_any"], [], names=["wrapped"], types=[old.type], before=node).result
        g.replace_uses(old, new)
        assert old.is_dead and list(new.uses) == readers and set(new.output_of) == set(returns)
    elif act == "operand" and node.op.name == "t_any" and len(node.operands) > 1:
        node.set_operand(0, node.operands[1])
    elif act == "reorder":
        before = node._prev
        if before is not None and not any(r in before.results for r in [*node.operands, *node.captures()]):
            g.move(node, before)
    elif act == "const" and node.op.name == "t_any" and node.operands and not _inside_isolated(g):
        node.set_operand(0, m.add_const("c", np.zeros(3, np.float32)))
    elif act == "outputs" and not _inside_isolated(g) and g.outputs:
        g.set_outputs([*g.outputs[1:], *g.outputs[:1]])


def _inside_isolated(g: Graph) -> bool:
    return g.parent is not None and g.parent.op.has("isolated")
