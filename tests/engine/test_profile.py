"""gm.profile: a row for each kernel and host step, in order, with sizes, work and time; nothing of it stays behind."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.engine import cost
from graphmill.engine.bench import measure, peak_memory
from graphmill.engine.profile import human
from onnx import parser as onnx_parser

from ..kernels.cuda.harness import needs_shim


def compiled(text: str, **options: Any) -> gm.Executable:
    return gm.compile(onnx_parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}'), **options)


MIXED = """m (float[N, 4] x, float[4, 8] w) => (float[N, 8] y, float d, int64[2, M] at)
    { p = MatMul (x, w)  r = Relu (p)  y = Softmax (r)  t = Transpose (x)  q = MatMul (t, x)  d = Det (q)  at = NonZero (y) }"""


@pytest.mark.parametrize("threads", [1, 2])
def test_rows(threads: int) -> None:
    exe = compiled(MIXED, threads=threads)
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), "w": np.ones((4, 8), np.float32)}
    want = exe.run(feeds)
    p = gm.profile(exe, feeds, seconds=0)
    by_op = {r.op: r for r in p.rows}
    product = by_op["matmul+relu"]
    assert product.operands == ("f32[3,4]", "f32[4,8]") and product.results == ("f32[3,8]",) and product.how == "native"
    assert product.flops == 2 * 3 * 4 * 8 and product.nbytes == 4 * (12 + 32 + 24) and product.tiles >= 1
    assert by_op["det"].how == "reference" and by_op["det"].tiles == 0 and by_op["det"].flops == 0
    assert all(r.seconds > 0 for r in p.rows if r.tiles == 0) and all(r.seconds >= 0 for r in p.rows)
    assert p.threads == threads and p.runs >= 5 and p.seconds > 0 and p.inside > 0
    assert {op: n for op, (n, _) in p.by_op().items()} == {r.op: sum(s.op == r.op for s in p.rows) for r in p.rows}
    text = str(p)
    assert "matmul+relu" in text and "f32[3,4], f32[4,8] -> f32[3,8]" in text and text.count("\n") > len(p.rows)
    assert f"and {len(p.rows) - 1} more" in p.table(1)
    assert json.loads(json.dumps(p.as_dict()))["rows"][0]["op"] == p.rows[0].op
    for name, a in exe.run(feeds).items():
        np.testing.assert_array_equal(a, want[name])


@needs_shim
def test_rows_of_a_device() -> None:
    """Kernels run again and again while they are timed, and the run is right all the same."""
    exe = compiled(MIXED, target="cuda", device="shim")
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), "w": np.ones((4, 8), np.float32)}
    want = exe.run(feeds)
    p = gm.profile(exe, feeds, seconds=0)
    ways = {r.op: (r.how, r.count, r.tiles > 0) for r in p.rows}
    assert ways["matmul+relu"] == ("native", 1, True) and ways["det"] == ("reference", 1, False)
    assert all(r.seconds > 0 for r in p.rows)
    (at,) = [r for r in p.rows if r.op == "non_zero"]
    assert at.results == (f"i64[2,{want['at'].shape[1]}]",)
    for name, a in exe.run(feeds).items():
        np.testing.assert_array_equal(a, want[name])


def test_a_device_that_computes_nothing_takes_no_time() -> None:
    exe = compiled(
        "m (float[N] x) => (float[N] y) <int64 i = {0}> { e = Exp (x)  y = CumSum (e, i) }", target="cuda", device="null"
    )
    p = gm.profile(exe, {"x": np.ones(4, np.float32)}, seconds=0)
    assert len(p.rows) == 2 and p.inside == 0 and "cum_sum" in str(p)


def test_many_equal_operands_are_counted() -> None:
    exe = compiled("m (float[N] x) => (float[M] y) { e = Exp (x)  y = Concat <axis = 0> (e, e, e, x) }")
    p = gm.profile(exe, {"x": np.ones(4, np.float32)}, seconds=0)
    assert "3 x f32[4], f32[4] -> f32[16]" in str(p) or "4 x f32[4] -> f32[16]" in str(p)


def test_what_runs_inside_of_loops_and_branches() -> None:
    exe = compiled("""m (int64 n, float[2, 3] x, float[3, 3] w) => (float[2, 3] z) { t = Constant<value = bool {1}>() z = Loop(n, t, x)
        <body = b (int64 i, bool c, float[2, 3] p) => (bool d, float[2, 3] q) { d = Identity(c)  o = Constant<value = int64 {1}> ()
            m = MatMul(p, w)  f = Less(i, o)
            q = If (f) <then_branch = u () => (float[2, 3] r) { r = Neg(m) }, else_branch = v () => (float[2, 3] s) { s = Exp(m) }> }> }""")
    feeds = {"n": np.array(4), "x": np.ones((2, 3), np.float32), "w": np.zeros((3, 3), np.float32)}
    p = gm.profile(exe, feeds, seconds=0)
    found = {(r.path, r.op): r for r in p.rows}
    assert len(found) == len(p.rows)
    assert {k: (r.how, r.count) for k, r in found.items() if r.op != "identity"} == {
        ("", "loop"): ("host", 1), ("z/body", "matmul"): ("native", 4), ("z/body", "less"): ("native", 4),
        ("z/body", "if"): ("host", 4), ("z/body/q/then_branch", "neg"): ("native", 1), ("z/body/q/else_branch", "exp"): ("native", 3),
    }  # fmt: skip
    assert found["z/body", "matmul"].flops == 4 * 2 * 2 * 3 * 3
    assert "z/body/q/else_branch: s" in str(p) and all(r.seconds >= 0 for r in p.rows) and p.inside > 0
    assert sum(s for _, s in p.by_op().values()) == pytest.approx(p.inside)


def test_a_slow_body_is_not_the_loops_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    exe = compiled("""m (int64 n, float[2, 2] x) => (float z) { t = Constant<value = bool {1}>() o = Constant<value = float {0}>() z = Loop(n, t, o)
        <body = b (int64 i, bool c, float p) => (bool d, float q) { d = Identity(c)  e = Det(x)  q = Add(e, p) }> }""")
    (step,) = [s for s in exe.plan.steps if s.node.op.name == "loop"]
    (slow,) = [s for s in step.plans[0].steps if s.node.op.name == "det"]  # type: ignore[attr-defined]
    run = slow.run
    monkeypatch.setattr(slow, "run", lambda frame: (time.sleep(0.01), run(frame)))
    p = gm.profile(exe, {"n": np.array(3), "x": np.eye(2, dtype=np.float32)}, seconds=0)
    by_op = {r.op: r.seconds for r in p.rows}
    assert by_op["det"] >= 0.03 and by_op["det"] > by_op["loop"]


def test_wrong_inputs_and_an_empty_model() -> None:
    exe = compiled("m (float[2] x) => (float[2] y) { y = Identity (x) }")
    with pytest.raises(gm.errors.InputError):
        gm.profile(exe, {"x": np.ones(3, np.float32)})
    p = gm.profile(exe, {"x": np.ones(2, np.float32)}, seconds=0)
    assert p.inside >= 0 and "a run takes" in str(p)


@pytest.mark.parametrize(("text", "op", "flops"), [
    ("m (float[5, 3] x) => (float[5, 4] y) { w = Constant <value = float[4, 3] {1,1,1,1,1,1,1,1,1,1,1,1}> () y = Gemm <transB = 1> (x, w) }", "gemm", 2 * 5 * 4 * 3),
    ("m (float[3, 5] x, float[3, 4] w) => (float[5, 4] y) { y = Gemm <transA = 1> (x, w) }", "gemm", 2 * 5 * 4 * 3),
    ("m (float[1, 4, 6, 6] x, float[8, 2, 3, 3] w) => (float[1, 8, 4, 4] y) { y = Conv <group = 2> (x, w) }", "conv", 2 * 8 * 16 * 2 * 9),
    ("m (float[1, 4, 6, 6] x, float[4, 8, 2, 2] w) => (float[1, 8, 7, 7] y) { y = ConvTranspose (x, w) }", "conv_transpose", 2 * 4 * 36 * 8 * 4),
    ("m (float[7, 2, 3] x, float[1, 16, 3] w, float[1, 16, 4] r) => (float[7, 1, 2, 4] y) { y, h, c = LSTM <hidden_size = 4> (x, w, r) }", "lstm",
     2 * 7 * 2 * 16 * 7),
    ("m (float[N] x) => (float[N] y) { y = Exp (x) }", "exp", 0),
])  # fmt: skip
def test_the_work_of_products(text: str, op: str, flops: int) -> None:
    (node,) = [n for n in compiled(text, target="reference").module.main if n.op.name == op]
    assert cost.flops(node, {}) == flops
    assert (cost.nbytes(node, {}) is None) == ("[N]" in text)


def test_picking_reads_what_it_takes() -> None:
    exe = compiled("m (float[1000, 8] x, int64[2] i) => (float[2, 8] y) { y = Gather (x, i) }", target="reference")
    (node,) = exe.module.main
    assert cost.nbytes(node, {}) == 64 + 64 + 16


def test_ways_take_turns() -> None:
    order: list[str] = []
    timings, ratios = measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0)
    assert set(timings) == {"a", "b"} and set(ratios) == {"b"} and ratios["b"] > 0
    changes = sum(p != q for p, q in pairwise(order))
    assert changes >= 5 and timings["a"].runs > 0 and timings["a"].low <= timings["a"].high
    assert (peak_memory() or 1 << 30) > 1 << 20


def test_times_for_people() -> None:
    assert [human(x) for x in (2.5, 1.5e-3, 2e-6, 3.456e-9, 0.0)] == ["2.5 s", "1.5 ms", "2 us", "3.46 ns", "0 ns"]
