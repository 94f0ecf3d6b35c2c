"""What follows an `if` of unknown rank runs in its branches: the same answers, and kernels where the rank is known."""

from __future__ import annotations

import graphmill as gm
import numpy as np
import onnx.parser
import pytest
from graphmill.frontends.onnx.writer import export
from graphmill.ir.parser import parse_module
from graphmill.ir.passes import branches
from graphmill.ir.printer import print_module

W = np.random.default_rng(0).standard_normal((6, 5)).astype("f4")


def compiled(body: str, results: str = "float[] y", inputs: str = "float[n,k,6] x", **options: object) -> gm.Executable:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> m ({inputs}) => ({results}) {{ {body} }}')
    for o in model.graph.output:
        o.type.tensor_type.ClearField("shape")
    model.graph.initializer.extend([onnx.numpy_helper.from_array(W, "w"), onnx.numpy_helper.from_array(np.array([1]), "one"),
                                    onnx.numpy_helper.from_array(np.array([0]), "zero")])  # fmt: skip
    return gm.compile(model, **options)  # type: ignore[arg-type]


def feed(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype("f4")


def outcomes(exe: gm.Executable) -> list[str]:
    return [f"{d.outcome} {d.reason}".strip() for d in exe.report.decisions if d.rule == "split-branches"]


SQUEEZED = """s = Shape<start=1, end=2>(x) c = Equal(s, one)
    q = If (c) <then_branch = a () => (float[] t) { t = Squeeze(x, one) }, else_branch = b () => (float[] u) { u = Identity(x) }>"""


def same(body: str, results: str = "float[] y", shapes: tuple = ((3, 1, 6), (3, 4, 6), (1, 1, 6), (0, 1, 6))) -> gm.Executable:
    exe, oracle = compiled(body, results), compiled(body, results, target="reference")
    for shape in shapes:
        got, want = exe.run({"x": feed(*shape)}), oracle.run({"x": feed(*shape)})
        assert list(got) == list(want)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)
    return exe


def test_what_follows_is_native_in_both_branches() -> None:
    exe = same(f"{SQUEEZED} m = MatMul(q, w) r = Relu(m) y = Softmax(r)")
    assert outcomes(exe) == ["applied"] and not exe.report.not_native()


def test_several_outputs_and_what_does_not_depend_on_it() -> None:
    """`e` stands between the condition and what depends on it; `z` is an output of the `if` itself, `v` of neither."""
    body = f"{SQUEEZED} e = Exp(x) f = ReduceMean<axes=[0, 1, 2], keepdims=0>(e) m = MatMul(q, w) y = Mul(m, f) z = Identity(q) v = Neg(e)"
    exe = same(body, "float[] y, float[] z, float[] v")
    assert outcomes(exe) == ["applied"] and not exe.report.not_native()


def test_conditions_that_follow_from_the_rank_fold() -> None:
    body = f"""{SQUEEZED} h = Shape(q) n = Size(h) two = Constant<value_int=2>() p = Equal(n, two)
        g = If (p) <then_branch = a2 () => (float[] t2) {{ t2 = Unsqueeze(q, zero) }},
                   else_branch = b2 () => (float[] u2) {{ u2 = Identity(q) }}> y = MatMul(g, w)"""
    exe = same(body)
    assert outcomes(exe) == ["applied"] and not exe.report.not_native()
    assert sum(n.op.name == "if" for n in exe.module.walk()) == 1


LSTM = """lw = Constant<value_floats=[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5,
    0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]>() ws = Constant<value_ints=[1, 4, 6]>() ww = Reshape(lw, ws)
    lr = Constant<value_floats=[0.1, 0.2, 0.3, 0.4]>() rs = Constant<value_ints=[1, 4, 1]>() rr = Reshape(lr, rs)"""


def test_a_branch_that_can_only_fail() -> None:
    """LSTM takes three axes: with k = 1 there are two and one is added, with others there are four, which is an error, then and not before."""
    exe = same(f"{SQUEEZED} l = Unsqueeze(q, one) {LSTM} y, h, c2 = LSTM<hidden_size=1>(l, ww, rr)", shapes=((3, 1, 6), (2, 1, 6)))
    assert outcomes(exe) == ["applied"]
    assert {s.op for s in exe.report.served if s.how == "native"} >= {"lstm"}
    (failing,) = [s for s in exe.report.served if s.how == "fails"]
    assert "lstm" in failing.reason and "rank 4, expected rank 3" in failing.reason and failing.reason in exe.report.summary()
    assert not exe.report.not_native() and exe.report.counts()["fails"] == 1
    for _ in range(2):
        with pytest.raises(gm.errors.RunError, match=r"lstm: input x has shape .* of rank 4, expected rank 3"):
            exe.run({"x": feed(3, 4, 6)})
        assert exe.run({"x": feed(3, 1, 6)})["y"].shape == (3, 1, 1, 1)
    text = print_module(exe.module)
    assert "fail()" in text.replace(" ", "") and print_module(parse_module(text)) == text


def test_what_may_never_be_run_is_no_proof_of_failure() -> None:
    """The LSTM stands in a branch of its own: with k = 4 and d = 0 nothing fails."""
    body = f"""{SQUEEZED} l = Unsqueeze(q, one) {LSTM} d = Equal(e0, one)
        r = If (d) <then_branch = a3 () => (float[] t3) {{ t3, h, c2 = LSTM<hidden_size=1>(l, ww, rr) }},
                    else_branch = b3 () => (float[] u3) {{ u3 = Exp(l) }}> y = Neg(r)"""
    inputs = "float[n,k,6] x, int64[1] e0"
    exe, oracle = compiled(body, inputs=inputs), compiled(body, inputs=inputs, target="reference")
    assert "fails" not in exe.report.counts()
    for k, e in ((1, 1), (1, 0), (4, 0), (1, 1), (4, 0)):
        feeds = {"x": feed(3, k, 6), "e0": np.array([e])}
        np.testing.assert_allclose(exe.run(feeds)["y"], oracle.run(feeds)["y"], rtol=1e-5, atol=1e-6)
    with pytest.raises(gm.errors.GraphmillError, match="lstm"):
        exe.run({"x": feed(3, 4, 6), "e0": np.array([1])})


def test_what_can_only_fail_is_written_as_it_was() -> None:
    body = f"{SQUEEZED} l = Unsqueeze(q, one) {LSTM} y, h, c2 = LSTM<hidden_size=1>(l, ww, rr)"
    exe = compiled(body)
    again = gm.compile(export(exe.module, opset=17))
    for e in (exe, again):
        assert e.run({"x": feed(3, 1, 6)})["y"].shape == (3, 1, 1, 1)
        with pytest.raises(gm.errors.GraphmillError, match=r"LSTM|lstm"):
            e.run({"x": feed(3, 4, 6)})


def test_within_a_loop() -> None:
    body = """t = Constant<value_int=3>() go = Constant<value = bool {1}>() k0 = Constant<value_floats=[0.0,0.0,0.0,0.0,0.0]>()
        y = Loop (t, go, k0) <body = step (int64 i, bool g0, float[5] k) => (bool g1, float[5] k1) { g1 = Identity(g0)
            s = Shape<start=1, end=2>(x) c = Equal(s, one)
            q = If (c) <then_branch = a () => (float[] t1) { t1 = Squeeze(x, one) }, else_branch = b () => (float[] u) { u = Identity(x) }>
            m = MatMul(q, w) n = Constant<value_ints=[-1, 5]>() r = Reshape(m, n) d = ReduceMean<axes=[0], keepdims=0>(r) k1 = Add(d, k) }>"""
    exe = same(body, shapes=((3, 1, 6), (3, 4, 6)))
    assert outcomes(exe) == ["applied"] and not [s for s in exe.report.not_native() if s.how == "reference"]


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcomes(same(SQUEEZED.replace("q = If", "y = If"))) == []
    monkeypatch.setattr(branches, "MOST_NODES", 1)
    exe = same(f"{SQUEEZED} m = MatMul(q, w) r = Relu(m) y = Softmax(r)")
    assert outcomes(exe) == ["refused 3 nodes follow, more than 1"]


def test_a_chain_of_conditions_ends() -> None:
    """Each split copies what follows; only so many are made."""
    links = " ".join(f"s{i} = Shape<start=0, end=1>(q{i}) c{i} = Equal(s{i}, one) q{i + 1} = If (c{i}) <then_branch = a{i} () => (float[] t{i}) "
                     f"{{ t{i} = Unsqueeze(q{i}, zero) }}, else_branch = b{i} () => (float[] u{i}) {{ u{i} = Tanh(q{i}) }}>" for i in range(12))  # fmt: skip
    exe = same(f"q0 = Relu(x) {links} y = Neg(q12)", shapes=((3, 2, 6), (1, 2, 6)))
    assert 0 < outcomes(exe).count("applied") <= branches.MOST_SPLITS


def test_large_modules_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "MOST_MODULE", 3)
    assert outcomes(same(f"{SQUEEZED} m = MatMul(q, w) y = Softmax(m)")) == []
