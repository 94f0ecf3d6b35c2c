"""Binding a segment by what was recorded gives what walking it gives, for whatever sizes; and it happens only where it helps."""

from __future__ import annotations

import threading
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.engine.rebind import MOST_IN_VAIN, MOST_RECIPES
from graphmill.ir.limits import Limits
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser as onnx_parser

from .rebinding import checked_recipes


def compiled(text: str, **options: Any) -> gm.Executable:
    return gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}'), **options)


def feed(exe: gm.Executable, rng: np.random.Generator, **sizes: int) -> dict[str, np.ndarray]:
    """Random inputs, each symbolic dim with its size."""
    out = {}
    for name, t in exe.inputs.items():
        dims = [d for d in t[t.index("[") + 1 : -1].split(",") if d]
        shape = [sizes[d[1:]] if d.startswith("$") else int(d) for d in dims]
        out[name] = rng.integers(0, 2, shape) if t.startswith("i64") else rng.standard_normal(shape).astype(np.float32)
    return out


MODELS = {
    "chain": "m (float[N, 4] x) => (float[N, 4] y) { a = Softmax (x)  b = Relu (a)  c = ReduceMax <keepdims = 1> (b)  d = Div (b, c)  y = Sqrt (d) }",
    "attention": """m (float[B, N, 16] x, float[B, P, 16] past) => (float[B, N, 16] y, float[B, T, 16] keys) {
        keys = Concat <axis = 1> (past, x)  t = Transpose <perm = [0, 2, 1]> (keys)  s = MatMul (x, t)  p = Softmax (s)
        y = MatMul (p, keys) }""",
    "heads": """m (float[B, N, 16] x) => (float[B, N, 16] y) {
        four = Constant <value_ints = [0, 0, 4, 4]> ()  a = Reshape (x, four)  b = Transpose <perm = [0, 2, 1, 3]> (a)
        c = Transpose <perm = [0, 1, 3, 2]> (b)  s = MatMul (b, c)  p = Softmax (s)  o = MatMul (p, b)
        back = Transpose <perm = [0, 2, 1, 3]> (o)  three = Constant <value_ints = [0, 0, 16]> ()  y = Reshape (back, three) }""",
    "images": """m (float[N, 3, H, W] x) => (float[N, 4, H2, W2] y) {
        w = ConstantOfShape <value = float[1] {0.1}> (k)  a = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu (a)
        y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) }""".replace("(k)", "(k)").replace(
            "{\n        w", "{\n        k = Constant <value_ints = [4, 3, 3, 3]> ()  w", 1),
    "movement": """m (float[N, M] x) => (float[A, B] y, float[N] s) {
        one = Constant <value_ints = [1]> ()  two = Constant <value_ints = [-1]> ()  zero = Constant <value_ints = [0]> ()
        p = Constant <value_ints = [1, 2, 0, 3]> ()  a = Pad (x, p)  b = Slice (a, one, two, one)  c = Transpose (b)
        d = Slice (c, zero, two, zero)  y = Concat <axis = 0> (d, d)  s = ReduceSum <keepdims = 0> (x, one) }""",
    "shapes": """m (float[N, M] x) => (float[K] y, int64[2] n, float[M, N] e) {
        n = Shape (x)  minus = Constant <value_ints = [-1]> ()  f = Reshape (x, minus)  c = Size (x)  z = Range (nought, c, step)
        zf = Cast <to = 1> (z)  y = Add (f, zf)  r = Gather (n, order)  o = ConstantOfShape <value = float[1] {2.0}> (r)
        t = Transpose (x)  e = Mul (o, t) }""".replace(
            "{\n        n =", "{\n        nought = Constant <value_int = 0> ()  step = Constant <value_int = 1> ()\n        order = Constant <value_ints = [1, 0]> ()  n =", 1),
    "contents": """m (float[N, 8] x, int64[1] start) => (float[N, L] y) {
        end = Constant <value_ints = [8]> ()  one = Constant <value_ints = [1]> ()  s = Slice (x, start, end, one)  y = Relu (s) }""",
    "found": """m (float[N] x) => (int64[1, K] i, float[K] y) {
        b = Relu (x)  i = NonZero (b)  axes = Constant <value_ints = [0]> ()  q = Squeeze (i, axes)  g = Gather (x, q)  y = Exp (g) }""",
    "branch": """m (float[N] x, bool c) => (float[N] y) {
        e = Exp (x)  t = If (c) <then_branch = a () => (float[N] u) { u = Relu (e) }, else_branch = b () => (float[N] v) { v = Neg (e) }>
        y = Softmax (t) }""",
}  # fmt: skip


def symbols_of(exe: gm.Executable) -> list[str]:
    return list(dict.fromkeys(d[1:] for t in exe.inputs.values() for d in t[t.index("[") + 1 : -1].split(",") if d.startswith("$")))


@pytest.fixture(scope="module")
def executables() -> dict[str, gm.Executable]:
    return {}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.lists(st.integers(0, 40), min_size=4, max_size=4), min_size=3, max_size=6), seed=st.integers(0, 99))
def test_equals_a_walk(name: str, sizes: list[list[int]], seed: int) -> None:
    """Word by word, and the answers too, which a fresh executable (which never rebinds) gives as well."""
    exe, rng = compiled(MODELS[name], threads=1), np.random.default_rng(seed)
    names = symbols_of(exe)
    with checked_recipes():
        for found in sizes:
            inputs = feed(exe, rng, **dict(zip(names, found))) if name != "branch" else {
                "x": rng.standard_normal(found[0]).astype(np.float32), "c": np.array(found[1] % 2 == 0)}  # fmt: skip
            if "start" in inputs:
                inputs["start"] = rng.integers(-9, 10, 1)
            results = []
            for e in (exe, compiled(MODELS[name], threads=1)):
                try:
                    results.append(e.run(inputs))
                except gm.errors.GraphmillError as error:
                    results.append({"error": np.array(f"{type(error).__name__}: {error}", object)})
            assert list(results[0]) == list(results[1])
            for k, x in results[0].items():
                np.testing.assert_array_equal(x, results[1][k])


@pytest.mark.parametrize(
    ("name", "most"), [("chain", 2), ("attention", 4), ("heads", 4), ("images", 6), ("movement", 4), ("shapes", 4)]
)
def test_most_signatures_are_rebound(name: str, most: int) -> None:
    """Of 40 signatures only few are recorded; the first is walked, all others are bound by a recipe."""
    exe, rng = compiled(MODELS[name], threads=1), np.random.default_rng(0)
    names = symbols_of(exe)
    with checked_recipes() as seen:
        for n in range(9, 49):
            exe.run(feed(exe, rng, **{s: n + i for i, s in enumerate(names)}))
    segments = len(exe._plan.segments._recipes)
    assert seen.rebound == 39 * segments
    assert segments <= seen.recorded <= most * segments
    assert seen.arena <= 1.15 * seen.best_fit + 40 * 4096


def test_nothing_is_compiled_and_one_signature_is_not_recorded() -> None:
    exe, rng = compiled(MODELS["chain"]), np.random.default_rng(0)
    with checked_recipes() as seen:
        for _ in range(3):
            exe.run(feed(exe, rng, N=5))
    assert seen.recorded == seen.rebound == 0


def test_few_recipes_are_kept() -> None:
    """And a segment whose decisions are others each time is not recorded for ever."""
    exe = compiled("""m (float[1, 1, H, W] x) => (float[1, 1, H2, W2] y) { s = Constant <value_floats = [1.0, 1.0, 2.0, 1.5]> ()
        e = Constant <value_floats = [0.0]> ()  y = Resize <mode = "linear"> (x, e, s) }""")
    rng = np.random.default_rng(0)
    with checked_recipes() as seen:
        for n in range(4, 4 + 3 * MOST_IN_VAIN):
            exe.run(feed(exe, rng, H=n, W=n + 1))
    (recipes,) = exe._plan.segments._recipes.values()
    assert seen.recorded == MOST_IN_VAIN
    assert len(recipes._recipes) <= MOST_RECIPES


def test_limits_are_asked_each_time() -> None:
    """What a run may hold depends on its inputs, and is no part of a recipe: the messages are those of a first run."""
    text = "m (float[N, 1] x, float[1, M] z) => (float[K] y) { p = Mul (x, z)  e = Exp (p)  f = Exp (e)  y = ReduceSum <keepdims = 0> (f, one) }"
    text = text.replace("{ p", "{ one = Constant <value_ints = [1]> ()  p")
    limits = Limits(total_bytes=1 << 16, growth=1, tensor_bytes=1 << 20)
    exe, rng = compiled(text, limits=limits), np.random.default_rng(0)
    with checked_recipes() as seen:
        for n in (8, 9, 10, 12, 20):
            exe.run(feed(exe, rng, N=n, M=n))
        assert seen.rebound >= 3
        for n in (200, 600):
            messages = []
            for e in (exe, compiled(text, limits=limits)):
                with pytest.raises(gm.errors.LimitError) as caught:
                    e.run(feed(e, rng, N=n, M=n))
                messages.append(str(caught.value))
            assert messages[0] == messages[1]
        exe.run(feed(exe, rng, N=21, M=21))


def test_sizes_beyond_64_bits_end_as_in_a_walk() -> None:
    text = """m (float[0, A] x, float[0, B] z) => (float[0, 0, A, B] y, int64[1] n) {
        a = Constant <value_ints = [1, 2]> ()  b = Constant <value_ints = [0, 3]> ()  u = Unsqueeze (x, q)  v = Unsqueeze (z, r)
        y = Mul (u, v)  s = Shape (y)  n = ReduceProd <keepdims = 1> (s) }"""
    text = text.replace("{\n", "{ q = Constant <value_ints = [1, 3]> ()  r = Constant <value_ints = [0, 2]> ()\n")
    exe = compiled(text)
    with checked_recipes():
        for a, b in ((2, 3), (3, 4), (5, 6), (1 << 31, 1 << 32), (1 << 40, 1 << 40), (7, 8)):
            inputs = {"x": np.empty((0, a), np.float32), "z": np.empty((0, b), np.float32)}
            results = []
            for e in (exe, compiled(text)):
                try:
                    results.append(e.run(inputs)["n"].tolist())
                except Exception as error:
                    results.append(f"{type(error).__name__}: {error}")
            assert results[0] == results[1]


def test_several_threads_rebind_at_once() -> None:
    exe, fresh, wrong = compiled(MODELS["attention"], threads=1), compiled(MODELS["attention"], threads=1), []
    wanted = {n: (x := feed(fresh, np.random.default_rng(n), B=1 + n % 3, N=n, P=2 * n), fresh.run(x)) for n in range(1, 25)}

    def work(k: int) -> None:
        order = np.random.default_rng(k).permutation(list(wanted))
        for n in order.tolist():
            inputs, want = wanted[n]
            got = exe.run(inputs)
            if any((got[name] != want[name]).any() for name in want):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
