"""The short way through control flow: taken for shapes met before, left where something is otherwise, and never another answer."""

from __future__ import annotations

import threading
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.engine.plan import Plan, Region
from graphmill.engine.steps import HostStep
from graphmill.engine.ways import MOST_WAYS, MOST_WRITTEN
from onnx import TensorProto, helper
from onnx import parser as onnx_parser

Feeds = dict[str, Any]


def compiled(text: str, **options: Any) -> gm.Executable:
    return gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}'), **options)


BRANCH = """m (bool c, float[N] x) => (float[N] y, float[N] z) {
    s = Softmax (x)
    y, z = If (c) <then_branch = t () => (float[N] a, float[N] b) { a = Mul (s, x)  b = Identity (x) },
                   else_branch = e () => (float[N] p, float[N] q) { p = Exp (s)  q = Identity (p) }> }"""
LOOP = """m (int64 n, float[J] x) => (float[J] y, float[K, J] all) {
    c = Constant <value = bool {1}> ()
    y, all = Loop (n, c, x) <body = b (int64 i, bool go, float[J] v) => (bool go2, float[J] w, float[J] s) {
        go2 = Identity (go)  e = Softmax (v)  w = Add (e, x)  s = Neg (w) }> }"""
SWITCH = """m (int64 n, float[2] x) => (float[2] y) {
    c = Constant <value = bool {1}> ()  two = Constant <value = int64 {2}> ()  zero = Constant <value = int64 {0}> ()
    y = Loop (n, c, x) <body = b (int64 i, bool go, float[2] v) => (bool go2, float[2] w) {
        go2 = Identity (go)  r = Mod (i, two)  z = Equal (r, zero)
        w = If (z) <then_branch = t () => (float[2] p) { p = Add (v, x) }, else_branch = e () => (float[2] q) { q = Mul (v, x) }> }> }"""
GROW = """m (int64 n, float[2] x) => (float[K] y) {
    c = Constant <value = bool {1}> ()
    y = Loop (n, c, x) <body = b (int64 i, bool go, float[J] v) => (bool go2, float[L] w) {
        go2 = Identity (go)  w = Concat <axis = 0> (v, x) }> }"""
SCAN = """m (float[2] h, float[T, 2, 3] x) => (float[2] y, float[2, T] all) {
    y, all = Scan <num_scan_inputs = 1, scan_input_axes = [0], scan_output_axes = [1], scan_input_directions = [1],
                   body = b (float[2] s, float[2, 3] e) => (float[2] s2, float[2] o) {
        r = ReduceSum <keepdims = 0> (e, k)  s2 = Add (s, r)  o = Tanh (s2)  k = Constant <value = int64[1] {1}> () }> (h, x) }""".replace(
    "r = ReduceSum <keepdims = 0> (e, k)  s2 = Add (s, r)  o = Tanh (s2)  k = Constant <value = int64[1] {1}> ()",
    "k = Constant <value = int64[1] {1}> ()  r = ReduceSum <keepdims = 0> (e, k)  s2 = Add (s, r)  o = Tanh (s2)",
)
BEHIND = """m (float[N] x) => (float[M] y, int64 n) {
    i = NonZero (x)  g = Transpose (i)  f = Cast <to = 1> (g)  h = Flatten (f)  r = ReduceSum <keepdims = 0> (h)
    y0 = GatherND (x, g)  y = Exp (y0)  n = Cast <to = 7> (r) }"""
NESTED = """m (int64 n, float[2] x) => (float[2] y) {
    c = Constant <value = bool {1}> ()
    y = Loop (n, c, x) <body = b (int64 i, bool go, float[2] v) => (bool go2, float[2] w) {
        go2 = Identity (go)  t = Add (i, n)
        w = Loop (t, go, v) <body = d (int64 j, bool on, float[2] u) => (bool on2, float[2] o) {
            on2 = Identity (on)  m = Cast <to = 1> (i)  a = Mul (u, x)  o = Add (a, m) }> }> }"""


def agree(exe: gm.Executable, oracle: gm.Executable, feeds: Feeds) -> None:
    want, kept = oracle.run(feeds), {k: np.array(v) for k, v in feeds.items()}
    got = exe.run(feeds)
    assert list(got) == list(want)
    for k, x in got.items():
        np.testing.assert_allclose(x, want[k], rtol=1e-5, atol=1e-5)
        x[...] = 77  # it belongs to the caller
    assert all((feeds[k] == kept[k]).all() for k in feeds)


def feeds_of(text: str) -> list[Feeds]:
    rng = np.random.default_rng(0)
    f32 = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    if text is BRANCH:
        return [{"c": np.array(k % 3 != 1), "x": f32(n)} for k, n in enumerate((3, 3, 3, 3, 5, 1, 0, 5, 3, 3))]
    if text is SCAN:
        return [{"h": f32(2), "x": f32(n, 2, 3)} for n in (4, 4, 1, 7, 7, 0, 4)]
    if text is BEHIND:
        return [
            {"x": np.array(x, np.float32)} for x in ([1, 0, 2], [1, 0, 2], [0, 2, 3], [1, 1, 1], [0, 0, 0], [4, 0, 1], [1], [1])
        ]
    sizes = (2, 2, 5, 2, 1, 0) if text is LOOP else (2,) * 6
    return [{"n": np.array(n), "x": 0.5 * f32(k)} for n, k in zip((3, 3, 2, 0, 5, 4), sizes)]


@pytest.mark.parametrize("text", [BRANCH, LOOP, SWITCH, GROW, SCAN, BEHIND, NESTED])
def test_answers(text: str) -> None:
    exe, oracle = compiled(text), compiled(text, target="reference")
    for feeds in feeds_of(text) * 2:
        agree(exe, oracle, feeds)


def regions(plan: Plan) -> list[Plan]:
    inner = [p for step in plan.steps if isinstance(step, HostStep) for p in step.plans]
    return inner + [q for p in inner for q in regions(p)]


@pytest.mark.parametrize("text", [BRANCH, LOOP, SWITCH, SCAN, NESTED])
def test_what_was_met_before_is_not_looked_at_again(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exe, oracle = compiled(text), compiled(text, target="reference")
    feeds = [f for f in feeds_of(text) if all(x.size for x in f.values())]
    for f in feeds:
        agree(exe, oracle, f)
    assert all(p.ways.known for p in regions(exe.plan))
    monkeypatch.setattr(exe, "_run_closely", lambda *a: pytest.fail("not the short way"))
    monkeypatch.setattr(Region, "_run_closely", lambda *a: pytest.fail("not the short way"))
    for f in feeds:
        agree(exe, oracle, f)


def test_few_ways_are_kept_and_written() -> None:
    exe = compiled(GROW)
    for n in (100, 3):
        y = exe(np.array(n), np.ones(2, np.float32))
        assert y.shape == (2 * n + 2,) and (y == 1).all()
    (body,) = regions(exe.plan)
    assert len(body.ways.known) == MOST_WAYS and body.ways._left == 0 < MOST_WRITTEN


def test_a_branch_that_hands_on_a_constant_or_an_input() -> None:
    text = """m (bool c, float[3] x) => (float[3] y, float[3] z) {
        y, z = If (c) <then_branch = t () => (float[3] a, float[3] b) { a = Constant <value = float[3] {1, 2, 3}> ()  b = Identity (a) },
                       else_branch = e () => (float[3] p, float[3] q) { p = Identity (x)  q = Identity (x) }> }"""
    exe, oracle = compiled(text), compiled(text, target="reference")
    for c in (True, False, True, False, True, False):
        agree(exe, oracle, {"c": np.array(c), "x": np.float32([7, 8, 9])})
        out = exe.run({"c": np.array(c), "x": np.float32([7, 8, 9])})
        assert not np.shares_memory(out["y"], out["z"])


def test_outputs_into_the_callers_arrays() -> None:
    exe, oracle = compiled(BRANCH), compiled(BRANCH, target="reference")
    x = np.float32([0.1, 0.2, 0.3])
    for c in (True, False, True, False):
        place = {"z": np.empty(3, np.float32)}
        got, want = exe.run({"c": np.array(c), "x": x}, out=place), oracle.run({"c": np.array(c), "x": x})
        assert got["z"] is place["z"]
        for k in want:
            np.testing.assert_allclose(got[k], want[k], rtol=1e-6)
    with pytest.raises(gm.errors.InputError):
        exe.run({"c": np.array(True), "x": x}, out={"z": np.empty(4, np.float32)})


def test_complaints_and_limits_on_the_short_way() -> None:
    exe = compiled("""m (int64 n, int64[1] at, float[3] x) => (float[1] y) {
        c = Constant <value = bool {1}> ()  z = Constant <value = float[1] {0}> ()
        y = Loop (n, c, z) <body = b (int64 i, bool go, float[1] v) => (bool go2, float[1] w) {
            go2 = Identity (go)  g = Gather (x, at)  w = Add (v, g) }> }""", limits=gm.Limits(loop_iterations=10))  # fmt: skip
    x = np.float32([1, 2, 3])
    for at in (0, 2, 1):
        assert exe(np.array(4), np.array([at]), x).tolist() == [4 * x[at]]
    with pytest.raises(gm.errors.RunError, match="gather"):
        exe(np.array(4), np.array([3]), x)
    with pytest.raises(gm.errors.LimitError, match="loop_iterations"):
        exe(np.array(11), np.array([0]), x)
    assert exe(np.array(10), np.array([0]), x).tolist() == [10]


def test_a_deadline_ends_a_loop_on_the_short_way() -> None:
    exe = compiled(LOOP, limits=gm.Limits(loop_iterations=None, seconds=None))
    exe(np.array(3), np.ones(2, np.float32))
    with pytest.raises(gm.errors.DeadlineError):
        exe.run({"n": np.array(1 << 40), "x": np.ones(2, np.float32)}, timeout=0.05)


def test_bytes_that_a_loop_gathers_are_counted() -> None:
    exe = compiled(LOOP, limits=gm.Limits(total_bytes=1 << 20, growth=0, loop_iterations=None))
    x = np.ones(1024, np.float32)
    for n in (3, 3):
        assert exe(np.array(n), x)[1].shape == (n, 1024)
    with pytest.raises(gm.errors.LimitError, match="total_bytes"):
        exe(np.array(1 << 20), x)


def test_many_threads_on_the_short_way() -> None:
    exe, wrong = compiled(SWITCH), list[Any]()

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(40):
            n, x = int(rng.integers(0, 6)), rng.standard_normal(2).astype(np.float32)
            want = x
            for i in range(n):
                want = want * x if i % 2 else want + x
            if not np.allclose(exe(np.array(n), x), want, rtol=1e-4, atol=1e-5):
                wrong.append((n, x))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("keys", [[5, 7], ["cat", "dog"]])
@pytest.mark.parametrize("other", ["Identity", None])
def test_lists_of_maps(keys: list[Any], other: str | None) -> None:
    attribute = "classlabels_int64s" if isinstance(keys[0], int) else "classlabels_strings"
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("ZipMap", ["e"], ["z"], domain="ai.onnx.ml", **{attribute: keys}),
    ]
    key = TensorProto.INT64 if isinstance(keys[0], int) else TensorProto.STRING
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, [])))
    outputs = [helper.make_value_info("z", maps), helper.make_tensor_value_info("e", TensorProto.FLOAT, ["N", 2])]
    if other:
        nodes.append(helper.make_node(other, ["z"], ["again"]))
        outputs.append(helper.make_value_info("again", maps))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])], outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    exe = gm.compile(helper.make_model(graph, ir_version=10, opset_imports=opsets))
    for n in (2, 1, 2, 0, 2):
        x = np.arange(2 * n, dtype=np.float32).reshape(n, 2) / 7
        out = exe.run({"x": x})
        want = [dict(zip(keys, map(float, row))) for row in out["e"]]  # Python floats of what is f32
        assert all(out[k] == want for k in out if k != "e") and all(type(p) is float for row in out["z"] for p in row.values())
        np.testing.assert_allclose(out["e"], np.exp(x), rtol=1e-6)
        out["z"].append("mine")
        assert other is None or out["again"] == want
    assert exe._replays
