"""Operators, converters, rewrites and passes that users register."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import graphmill as gm
import numpy as np
import onnx
import pytest
from graphmill.frontends import registry
from graphmill.ir.op import OPS
from graphmill.ir.passes import manager, user
from graphmill.ir.types import F32, I64, TensorType


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test registers is gone after it."""
    import graphmill.frontends.onnx.contrib
    import graphmill.ir.passes  # noqa: F401

    ops, converters, passes, rules = set(OPS), dict(registry._CONVERTERS), dict(manager.PASSES), list(user.RULES)
    yield
    for name in set(OPS) - ops:
        OPS.unregister(name)
    for known, before in ((registry._CONVERTERS, converters), (manager.PASSES, passes)):
        known.clear()
        known.update(before)
    user.RULES[:] = rules


def compile_(body: str, **options: object) -> gm.Executable:
    head = '<ir_version: 8, opset_import: ["" : 18, "my.ops" : 1, "com.microsoft" : 1]> g '
    return gm.compile(onnx.parser.parse_model(head + body), **options)  # type: ignore[arg-type]


X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)

# ---- operators --------------------------------------------------------------------------------------------------


def test_an_elementwise_function_is_native_and_fuses() -> None:
    @gm.op("shrink_to", domain="my.ops")
    def shrink_to(x, y, *, keep=0.5):
        """x where it is near y, else y."""
        return np.where(abs(x - y) < keep, x, np.tanh(y))

    exe = compile_(
        "(float[N,4] x, float[4] y) => (float[N,4] z) { a = my.ops.ShrinkTo<keep = 1.0>(x, y) z = Neg(a) }", strict_native=True
    )
    assert [s.op for s in exe.report.served] == ["fused"] and shrink_to.doc.startswith("x where")
    y = np.float32([0, 1, -1, 2])
    np.testing.assert_allclose(exe(X, y), -np.where(abs(X - y) < 1, X, np.tanh(y)), rtol=1e-5, atol=1e-6)


def test_the_default_of_an_attribute_and_other_element_types() -> None:
    @gm.op("lift", domain="my.ops", dtypes=[F32, I64])
    def lift(x, *, by=2):
        return x + by

    assert compile_("(int64[3] x) => (int64[3] y) { y = my.ops.Lift(x) }")(np.arange(3)).tolist() == [2, 3, 4]
    with pytest.raises(gm.errors.GraphmillError, match="f64"):
        compile_("(double[3] x) => (double[3] y) { y = my.ops.Lift(x) }")


def test_a_function_with_infer_runs_on_the_host() -> None:
    @gm.op("running_sum", domain="my.ops", infer=lambda c: c.t(0))
    def running_sum(x, *, axis=0):
        return np.cumsum(x, axis)

    exe = compile_("(float[N,4] x) => (float[N,4] y) { y = my.ops.RunningSum<axis = 1>(x) }")
    np.testing.assert_allclose(exe(X), np.cumsum(X, 1), rtol=1e-6)
    assert [s.how for s in exe.report.served] == ["reference"]


def test_several_results() -> None:
    @gm.op("min_max", domain="my.ops", results=2, infer=lambda c: [TensorType(c.t(0).dtype, ())] * 2)
    def min_max(x):
        return x.min(), x.max()

    low, high = compile_("(float[N,4] x) => (float low, float high) { low, high = my.ops.MinMax(x) }")(X)
    assert (low, high) == (-2, 2)


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: np.cumsum(x), "np.cumsum has no scalar expression"),
        (lambda x: x if x > 0 else -x, "cannot branch on an element's value"),
        (lambda x, *, by: x + by, "every attribute needs a default"),
        (lambda x: x.T, "give op"),
    ],
)
def test_functions_that_are_not_elementwise(fn, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        gm.op("odd", domain="my.ops")(fn)
    assert "odd" not in OPS


def test_names_that_are_taken() -> None:
    with pytest.raises(gm.errors.IRError, match="an operator named relu is registered already"):
        gm.op("relu", domain="my.ops")(lambda x: x)
    with pytest.raises(gm.errors.IRError, match=r"ai\.onnx::Relu is the operator relu already"):
        gm.op("my_relu", domain="", op_type="Relu")(lambda x: x)


def test_an_error_of_the_function_names_the_node() -> None:
    @gm.op("fails", domain="my.ops", infer=lambda c: c.t(0))
    def fails(x):
        raise ZeroDivisionError("on purpose")

    with pytest.raises(gm.errors.RunError, match=r"y.*fails.*on purpose"):
        compile_("(float[2] x) => (float[2] y) { y = my.ops.Fails(x) }")(np.ones(2, np.float32))


# ---- converters, rewrites, passes -------------------------------------------------------------------------------


def test_a_converter() -> None:
    @gm.converter("my.ops", "Twice")
    def twice(b, call):
        return b.op("mul", call.inputs[0], np.float32(call.attrs["factor"]))

    assert compile_("(float[2] x) => (float[2] y) { y = my.ops.Twice<factor = 3.0>(x) }")(np.float32([1, 2])).tolist() == [3, 6]


def test_a_converter_goes_before_what_is_built_in() -> None:
    @gm.converter("", "Relu")
    def relu(b, call):
        return b.op("neg", call.inputs[0])

    assert compile_("(float[2] x) => (float[2] y) { y = Relu(x) }")(np.float32([1, -2])).tolist() == [-1, 2]


def test_a_rewrite_and_its_guard() -> None:
    calls = []

    def guard(m):
        calls.append(m.root.name)
        return "not this one" if m.root.name == "b" else None

    gm.rewrite("log(exp(x)) => abs(x)", guard)
    exe = compile_("(float[2] x, float[2] w) => (float[2] a, float[2] b) { e = Exp(x) a = Log(e) f = Exp(w) b = Log(f) }")
    a, b = exe(np.float32([-1, 2]), np.float32([-1, 2]))
    assert a.tolist() == [1, 2] and b == pytest.approx([-1, 2], rel=1e-5)
    ours = {d.at: d.outcome for d in exe.report.decisions if d.rule == "log(exp(x)) => abs(x)"}
    assert ours == {"a": "applied", "b": "refused"} and set(calls) == {"a", "b"}
    with pytest.raises(gm.errors.IRError, match="no equation"):
        gm.rewrite("exp(x)")


def test_a_pass() -> None:
    @gm.register_pass
    @dataclass(frozen=True)
    class Mark:
        name = "mark"
        text: str = "none"

        def run(self, module, ctx) -> None:
            module.meta["mark"] = self.text

    exe = compile_("(float[2] x) => (float[2] y) { y = Neg(x) }", passes="infer,mark{text=here},fuse")
    assert exe.module.meta["mark"] == "here" and [r.text for r in exe.report.passes] == ["infer", "mark{text=here}", "fuse"]
    with pytest.raises(TypeError, match="must be a dataclass"):
        gm.register_pass(type("Bare", (), {"name": "bare"}))
