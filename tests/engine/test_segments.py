"""Segments: what is bound once, where one ends, what is overwritten, and that answers do not depend on any of it."""

from __future__ import annotations

import threading
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.engine.bound import Bound
from graphmill.engine.steps import ViewStep
from onnx import parser as onnx_parser


def compiled(text: str, **options: Any) -> gm.Executable:
    return gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}'), **options)


def bound_of(exe: gm.Executable) -> list[Bound]:
    """All segments that a model's main graph has bound so far."""
    return [b for found in exe._plan.segments._bound.values() for b in found.values() if b is not None]


CHAIN = """m (float[N, 4] x) => (float[N, 4] y) {
    a = Softmax (x)  b = Relu (a)  c = ReduceMax <keepdims = 1> (b)  d = Div (b, c)  e = Softmax <axis = 0> (d)  y = Sqrt (e) }"""


def chain(x: np.ndarray) -> np.ndarray:
    def softmax(v: np.ndarray, axis: int) -> np.ndarray:
        e = np.exp(v - v.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    a = softmax(x, 1)
    return np.sqrt(softmax(a / a.max(), 0))


def test_one_segment_a_signature() -> None:
    exe = compiled(CHAIN)
    rng = np.random.default_rng(0)
    for n in (3, 5, 3, 0, 5, 1):
        x = rng.standard_normal((n, 4)).astype(np.float32)
        np.testing.assert_allclose(exe(x), chain(x) if n else x, rtol=1e-5)
    found = bound_of(exe)
    assert len(found) == 4  # 3, 5, 0 and 1 rows
    assert all(b.stop == len(exe._plan.steps) for b in found)


def test_nothing_is_bound_twice() -> None:
    exe = compiled(CHAIN)
    x = np.ones((2, 4), np.float32)
    exe(x)
    before = bound_of(exe)
    exe(x + 1)
    assert bound_of(exe) == before


def test_what_dies_inside_lies_in_the_arena() -> None:
    exe = compiled(CHAIN)
    exe(np.ones((64, 4), np.float32))
    (bound,) = bound_of(exe)
    assert len(bound.outputs) == 1 and bound.outputs[0].nbytes == 64 * 4 * 4
    rows = len(bound.parameters.table)
    assert 0 < bound.arena < rows * (64 * 4 * 4 + 64)
    assert len(exe._workspaces) == 1 and exe._workspaces[0].arena.nbytes == bound.arena


def test_an_operand_that_dies_is_overwritten() -> None:
    exe = compiled("m (float[64] x) => (float[64] y) { a = Softmax (x)  b = Softmax (a)  y = Softmax (b) }")
    x = np.linspace(0, 3, 64, dtype=np.float32)
    kept = x.copy()
    y = exe(x)
    (bound,) = bound_of(exe)
    (output,) = bound.outputs
    assert bound.results[0][1].buffer is not output and bound.results[0][1].buffer.root() is output  # all in the result's memory
    assert (x == kept).all()
    np.testing.assert_allclose(y, exe(x), rtol=0)


def test_results_belong_to_the_caller() -> None:
    exe = compiled("m (float[N] x) => (float[N] y, float[1, N] z, float[N] w) { w = Exp (x)  s = Constant <value_ints = [1, -1]> ()"
                   "  z = Reshape (w, s)  y = Neg (w) }")  # fmt: skip
    x = np.arange(3, dtype=np.float32)
    first = exe.run({"x": x})
    copies = {k: v.copy() for k, v in first.items()}
    first["w"][:] = 7
    assert (first["z"] == copies["z"]).all()
    exe.run({"x": x + 1})
    assert all((first[k] == copies[k]).all() for k in "yz")


def test_a_segment_ends_where_contents_are_needed() -> None:
    """The number of repeats is computed by kernels, so that the tile must wait for it."""
    exe = compiled("m (float[2] x, int64[1] n) => (float[M] y, float[M] z) { m = Mul (n, n)  y = Tile (x, m)  z = Exp (y) }")
    for n in (1, 2, 0, 2):
        x = np.array([1, 2], np.float32)
        y, z = exe(x, np.array([n], np.int64))
        assert y.tolist() == [1, 2] * (n * n)
        np.testing.assert_allclose(z, np.exp(y), rtol=1e-6)
    assert max(b.stop for b in bound_of(exe)) == len(exe._plan.steps)


def test_contents_of_inputs_are_part_of_the_signature() -> None:
    exe = compiled("m (float[2, 6] x, int64[2] shape) => (float[A, B] y) { r = Reshape (x, shape)  y = Exp (r) }")
    x = np.arange(12, dtype=np.float32).reshape(2, 6) / 10
    for shape in ((3, 4), (4, 3), (12, -1), (3, 4)):
        y = exe(x, np.array(shape, np.int64))
        np.testing.assert_allclose(y, np.exp(x.reshape(shape)), rtol=1e-6)


def test_sizes_found_by_running() -> None:
    exe = compiled("m (float[N] x) => (float[M] y) { i = NonZero (x)  s = Constant <value_ints = [-1]> ()  j = Reshape (i, s)"
                   "  g = Gather (x, j)  e = Exp (g)  y = Neg (e) }")  # fmt: skip
    for x in ([1, 0, 2], [0, 0], [3, 4], []):
        a = np.array(x, np.float32)
        np.testing.assert_allclose(exe(a), -np.exp(a[a != 0]), rtol=1e-6)


def test_wrong_contents_are_found_after_the_segment() -> None:
    exe = compiled("m (float[4] x, int64[2] i) => (float[2] y) { a = Exp (x)  g = Gather (a, i)  y = Neg (g) }")
    x = np.arange(4, dtype=np.float32)
    with pytest.raises(gm.errors.RunError, match="outside"):
        exe(x, np.array([0, 4]))
    np.testing.assert_allclose(exe(x, np.array([0, -1])), -np.exp(x[[0, -1]]), rtol=1e-6)


def test_bodies_are_segments_too() -> None:
    exe = compiled("""m (int64 n, float[3] x) => (float[3] y, float[K, 3] all) {
        c = Constant <value = bool {1}> ()
        y, all = Loop (n, c, x) <body = b (int64 i, bool go, float[3] v) => (bool go2, float[3] w, float[3] s) {
            go2 = Identity (go)  e = Softmax (v)  w = Add (e, x)  s = Neg (w) }> }""")
    x = np.array([0.1, 0.2, 0.3], np.float32)
    want, rows = x, []
    for _ in range(5):
        e = np.exp(want - want.max())
        want = e / e.sum() + x
        rows.append(-want)
    y, all_ = exe(np.array(5), x)
    np.testing.assert_allclose(y, want, rtol=1e-5)
    np.testing.assert_allclose(all_, rows, rtol=1e-5)


def test_a_string_is_only_viewed() -> None:
    exe = compiled("m (string[2, 3] x, float[3] z) => (string[3, 2] y, float[3] w) { s = Constant <value_ints = [3, 2]> ()"
                   "  y = Reshape (x, s)  w = Exp (z) }")  # fmt: skip
    x = np.array([list("abc"), list("def")], object)
    y, w = exe(x, np.zeros(3, np.float32))
    assert y.tolist() == [["a", "b"], ["c", "d"], ["e", "f"]] and (w == 1).all()


def test_many_threads_at_once() -> None:
    exe = compiled(CHAIN, threads=2)
    wrong: list[Any] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            x = rng.standard_normal((int(rng.integers(1, 40)), 4)).astype(np.float32)
            if not np.allclose(exe(x), chain(x), rtol=1e-4):
                wrong.append(x)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and len(exe._workspaces) <= 4


def test_a_limit_counts_the_arena() -> None:
    exe = compiled("m (int64[1] n) => (float z) { e = ConstantOfShape (n)  a = Softmax (e)  b = Softmax (a)"
                   "  z = ReduceSum <keepdims = 0> (b) }", limits=gm.Limits(total_bytes=20 << 20, growth=0))  # fmt: skip
    assert np.isfinite(exe(np.array([1000])))
    with pytest.raises(gm.errors.LimitError, match="total_bytes"):
        exe(np.array([4_000_000]))


def test_transposes_between_layouts_move_nothing() -> None:
    text = """m (float[N, 2, H, 3] x, float[4, 2, 1, 1] w, float[4, 4, 1, 1] v) => (float[N, 4, H, 3] y, float[N, H, 3, 4] t) {
        c = Conv (x, w)  t = Transpose <perm = [0, 2, 3, 1]> (c)  s = Softmax (t)
        u = Transpose <perm = [0, 3, 1, 2]> (s)  a = Add (u, c)  y = Conv (a, v) }"""
    exe = compiled(text)
    assert sorted(s.node.op.name for s in exe._plan.steps if isinstance(s, ViewStep)) == ["transpose", "transpose"]
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal((4, 2, 1, 1)).astype(np.float32), rng.standard_normal((4, 4, 1, 1)).astype(np.float32)
    for n, h in ((2, 5), (1, 1), (0, 3), (2, 5)):
        x = rng.standard_normal((n, 2, h, 3)).astype(np.float32)
        c = np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0])
        e = np.exp(c - c.max(1, keepdims=True))
        a = c + e / e.sum(1, keepdims=True)
        found = exe.run({"x": x, "w": w, "v": v})
        np.testing.assert_allclose(found["t"], c.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["y"], np.einsum("nchw,oc->nohw", a, v[:, :, 0, 0]), rtol=1e-5, atol=1e-5)


def test_a_layout_of_axes_of_size_one_changes_for_free() -> None:
    exe = compiled("m (float[1, 4, 3, 3] x) => (float[1, 4] y) { p = GlobalAveragePool (x)  y = Flatten (p) }")
    x = np.arange(36, dtype=np.float32).reshape(1, 4, 3, 3)
    np.testing.assert_allclose(exe(x), x.mean((2, 3)))
    assert [s.node.op.name for s in exe._plan.steps if isinstance(s, ViewStep)][-2:] == ["to_layout", "flatten"]
