"""How modules look as text."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.core import Constant, Graph, Module
from graphmill.ir.errors import IRError
from graphmill.ir.op import OPS
from graphmill.ir.parser import parse_module
from graphmill.ir.printer import float_text, print_module, print_node, spell, unique_digits
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BOOL, DTYPES, F32, I64, TensorType
from graphmill.ir.verify import same_array, structurally_equal, verify
from hypothesis import given, settings
from strategies import arrays, names, random_ops


@pytest.fixture(autouse=True, scope="module")
def operators():
    with random_ops():
        yield


def tiny() -> Module:
    m = Module("tiny", {"": 17, "com.microsoft": 1})
    n = symbol("N", 1, 64)
    m.symbols["N"] = next(iter(n.terms))[0][0]
    t = TensorType(F32, (n, 3))
    x = m.main.add_input("x", t)
    w = m.add_const("w", np.arange(51, dtype=np.float32).reshape(17, 3))
    b = m.add_const("b", np.array([0.1, -0.0, np.inf], np.float32))
    fused = Graph("body", m)
    i, j = (fused.add_input(v.name, v.type) for v in (x, b))
    s = fused.add(OPS["add"], [i, j], names=["s"], types=[t], locs=["/conv1/Add"]).result
    fused.set_outputs([fused.add(OPS["relu"], [s], names=["r"], types=[t], locs=["/act/Relu"]).result])
    y = m.main.add(
        OPS["t_fused"], [x, b], {"kernel": "gemm"}, names=["y"], types=[t], regions=[fused], locs=["/conv1/Add", "/act/Relu"]
    )
    then, other = Graph("then_branch", m), Graph("else_branch", m)
    then.set_outputs([then.add(OPS["add"], [y.result, w], names=["/if/a"], types=[None]).result])
    other.set_outputs([y.result])
    z = m.main.add(OPS["t_branch"], [x], names=["z"], types=[t.with_(shape=None)], regions=[then, other]).result
    m.main.add(OPS["t_sink"], [z, y.result], names=[])
    attrs = {"axes": (1, -1), "beta": 0.5, "mode": "linear", "to": BOOL, "s": "f32", "sizes": (n * 2 + 1, 4)}
    p = m.main.add(OPS["t_two"], [x], attrs, names=["p", "q"], types=[t, TensorType(I64, ())])
    m.main.add(OPS["t_opt"], [p.results[0], None], {"k": None}, names=["o"], types=[TensorType(F32, (4,))])
    m.main.set_outputs([z, z])
    m.output_names = ["z", "again"]
    m.meta["author"] = 'A "quoted" name'
    return m


TINY = r"""
module @tiny {opset = 17, "com.microsoft" = 1} {
  meta "author" = "A \"quoted\" name"
  sym $N in [1, 64]
  const %w : f32[17,3] = blob sha256:HASH
  const %b : f32[3] = [0.1, -0.0, inf]
  graph @main(%x: f32[$N,3]) -> %z, %z as again {
    %y = t_fused(%x, %b) {kernel = gemm} : f32[$N,3] loc("/conv1/Add", "/act/Relu") {
      %s = add(%x, %b) : f32[$N,3] loc("/conv1/Add")
      %r = relu(%s) : f32[$N,3] loc("/act/Relu")
      yield %r
    }
    %z = t_branch(%x) : f32[*] then_branch () {
      %/if/a = add(%y, %w) : ?
      yield %/if/a
    } else_branch () {
      yield %y
    }
    t_sink(%z, %y) : ()
    %p, %q = t_two(%x) {axes = [1,-1], beta = 0.5, mode = linear, s = "f32", sizes = [2*$N + 1,4], to = bool} : f32[$N,3], i64[]
    %o = t_opt(%p, _) {k = none} : f32[4]
  }
}
"""


def test_the_whole_text():
    m, blobs = tiny(), {}
    verify(m)
    text = print_module(m, blobs=blobs)
    ((digest, array),) = blobs.items()
    assert digest == m.consts["w"].const.sha256 and array is m.consts["w"].array
    assert text == TINY.lstrip().replace("HASH", digest[:16])
    assert structurally_equal(m, parse_module(text, blobs)) is None


def test_without_locations():
    assert "loc(" not in print_module(tiny(), locs=False)


def test_one_node():
    m = tiny()
    fused = m.main.nodes[0]
    head = '%y = t_fused(%x, %b) {kernel = gemm} : f32[$N,3] loc("/conv1/Add", "/act/Relu") '
    assert print_node(fused, regions=False) == head + "{ ... }"
    inner = fused.regions[0].nodes[0]
    assert print_node(inner, locs=False) == "%s = add(%x, %b) : f32[$N,3]"
    assert print_node(fused).startswith(head + "{\n  %s = add(%x, %b)")


def test_small_constants_stand_in_place():
    m = Module()
    m.add_const("a", np.zeros(16, np.int8))
    m.add_const("b", np.zeros(17, np.int8))
    m.add_const("c", np.array(["a\nb", "é"], object))
    m.add_const("d", np.array([b"raw"], object))
    m.add_const("e", np.zeros((0, 3), np.float32))
    text = print_module(m)
    assert f"%a : i8[16] = [{', '.join('0' * 16)}]" in text
    assert "%b : i8[17] = blob" in text
    assert r'%c : str[2] = ["a\u{a}b", "\u{e9}"]' in text
    assert "%d : str[1] = blob" in text
    assert "%e : f32[0,3] = []" in text


def test_hashes_are_told_apart():
    digits = "0" * 63
    assert unique_digits({digits + "1", "1" * 64}) == 16
    assert unique_digits({digits + "1", digits + "2"}) == 64
    m = Module()
    t = TensorType(F32, (20,))
    for i in (1, 2):
        m.add_const(f"w{i}", Constant(load=lambda: np.zeros(20, np.float32), sha256="a" * 18 + f"{i}" * 46), t)
    assert "sha256:" + "a" * 18 + "1\n" in print_module(m)


def test_nothing_is_loaded_for_a_known_hash():
    def load():
        raise AssertionError("loaded")

    m = Module()
    m.add_const("w", Constant(load=load, sha256="ab" * 32), TensorType(F32, (20,)))
    assert "blob sha256:" + "ab" * 8 in print_module(m)


@given(names)
def test_names_stay_in_their_place(name):
    m = Module(name)
    x = m.main.add_input(name, TensorType(F32, ()))
    m.main.set_outputs([x])
    m.output_names = [name + "!"]
    text = print_module(m)
    assert text.count("\n") == 4 and text.isascii()
    back = parse_module(text)
    assert back.name == name and back.main.inputs[0].name == name and back.output_names == [name + "!"]


@pytest.mark.parametrize(
    "name, text",
    [("a.b/c:0", "a.b/c:0"), ("a:", '"a:"'), ("0", "0"), ("//0", '"//0"'), ("", '""'), ("_", "_"), ("a\n", r'"a\u{a}"')],
)
def test_spelling(name, text):
    assert spell(name) == text


@given(arrays())
@settings(deadline=None, max_examples=300)
def test_constants_keep_their_bits(a):
    m = Module()
    m.add_const("w", a)
    blobs: dict[str, np.ndarray] = {}
    back = parse_module(print_module(m, blobs=blobs), blobs)
    assert same_array(a, back.consts["w"].array)


def every_value(bits: int, dtype: np.dtype) -> np.ndarray:
    return np.arange(1 << bits, dtype=f"u{bits // 8}").view(dtype)


@pytest.mark.parametrize("name", ["f16", "bf16", "f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f8e8m0"])
def test_every_small_float(name):
    d = DTYPES[name]
    a = every_value(d.bits, d.np)
    texts = [float_text(x) for x in a]
    with np.errstate(all="ignore"):
        assert same_array(np.array([float(t) for t in texts]).astype(d.np), a)


@pytest.mark.parametrize(
    "x, text", [(np.float32(0.1), "0.1"), (np.float32(-0.0), "-0.0"), (np.float64(5e-324), "5e-324"), (np.float32("nan"), "nan")]
)
def test_floats_are_short(x, text):
    assert float_text(x) == text


def test_what_text_cannot_say():
    m = tiny()
    node = m.main.nodes[-2]
    node.attrs["odd"] = object()
    with pytest.raises(IRError, match=r"%p \(t_two\): attribute odd: a object has no spelling"):
        print_module(m)
    g = m.main
    for _ in range(70):
        inner = Graph("body", m)
        g.add(OPS["t_loop"], [], names=[], regions=[inner])
        g = inner
    del node.attrs["odd"]
    with pytest.raises(IRError, match="nested more than 64 deep"):
        print_module(m)
