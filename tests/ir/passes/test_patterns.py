"""Whole operators put together from exporters' spellings: every spelling of gelu, attention for a target that serves it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from graphmill.ir import interp
from graphmill.ir.core import Module, Node, Value
from graphmill.ir.infer import infer_node
from graphmill.ir.op import OPS
from graphmill.ir.passes.manager import Context, parse_pipeline, run_pipeline
from graphmill.ir.types import F32, I64, TensorType
from graphmill.kernels.cpu.target import CpuTarget


class Expression:
    """Builds a module of one graph."""

    def __init__(self) -> None:
        self.module = Module()

    def input(self, name: str, *shape: int, dtype=F32) -> Value:
        return self.module.main.add_input(name, TensorType(dtype, shape))

    def const(self, x, dtype=np.float32) -> Value:
        return self.module.add_const("c", np.array(x, dtype))

    def __call__(self, op: str, *operands, **attrs) -> Value:
        node = self.module.main.add(OPS[op], [self.value(x) for x in operands], attrs, names=[op])
        infer_node(node)
        return node.result

    def value(self, x) -> Value | None:
        return x if x is None or isinstance(x, Value) else self.const(x)


def run(e: Expression, result: Value, pipeline: str, target=None) -> tuple[list[str], Context]:
    """The operators left after the pipeline, which must compute what was computed before."""
    e.module.main.set_outputs([result])
    e.module.output_names = ["y"]
    rng = np.random.default_rng(0)
    inputs = {v.name: rng.normal(size=v.tensor.shape).astype(v.tensor.dtype.np) for v in e.module.main.inputs}
    before = interp.run(e.module, inputs)["y"]
    ctx = Context(target=target)
    run_pipeline(e.module, parse_pipeline(pipeline), ctx)
    np.testing.assert_allclose(interp.run(e.module, inputs)["y"], before, rtol=2e-3, atol=2e-3)
    return [n.op.name for n in e.module.main], ctx


# ---- gelu -------------------------------------------------------------------------------------------------------

GATES = {
    "erf by division": lambda e, x: e("erf", e("div", x, math.sqrt(2))),
    "erf by product": lambda e, x: e("erf", e("mul", math.sqrt(0.5), x)),
    "erf by a rounded product": lambda e, x: e("erf", e("mul", x, np.float16(math.sqrt(0.5)))),
    "tanh of pow": lambda e, x: e("tanh", e("mul", math.sqrt(2 / math.pi), e("add", x, e("mul", 0.044715, e("pow", x, 3))))),
    "tanh of x (x x)": lambda e, x: e(
        "tanh", e("mul", e("add", e("mul", e("mul", x, e("mul", x, x)), 0.044715), x), math.sqrt(2 / math.pi))
    ),
    "tanh of (x x) x": lambda e, x: e("tanh", e("mul", e("add", x, e("mul", e("mul", e("mul", x, x), x), 0.044715)), 0.7978846)),
    "tanh of c x x x": lambda e, x: e("tanh", e("mul", e("add", x, e("mul", e("mul", e("mul", 0.044715, x), x), x)), 0.7978846)),
    "tanh of x (1 + c x x)": lambda e, x: e(
        "tanh", e("mul", e("mul", x, e("add", 1, e("mul", e("mul", x, x), 0.044715))), 0.79788)
    ),
}
PRODUCTS = {
    "(x (1 + g)) 0.5": lambda e, x, g: e("mul", 0.5, e("mul", e("add", g, 1), x)),
    "(x 0.5) (1 + g)": lambda e, x, g: e("mul", e("mul", x, 0.5), e("add", 1, g)),
    "x ((1 + g) 0.5)": lambda e, x, g: e("mul", x, e("mul", 0.5, e("add", g, 1))),
    "(x / 2) (1 + g)": lambda e, x, g: e("mul", e("add", g, 1), e("div", x, 2)),
}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("gate", GATES)
def test_gelu(gate: str, product: str) -> None:
    e = Expression()
    x = e.input("x", 3, 4)
    ops, ctx = run(e, PRODUCTS[product](e, x, GATES[gate](e, x)), "recognize,dce")
    assert ops == ["gelu"]
    assert next(iter(e.module.main)).attr("approximate") == ("tanh" if "tanh" in gate else "none")
    assert [d.outcome for d in ctx.log.decisions] == ["applied"]


@pytest.mark.parametrize("product", PRODUCTS)
def test_gelu_is_refused_where_the_gate_is_read_elsewhere(product: str) -> None:
    e = Expression()
    x = e.input("x", 3, 4)
    gate = GATES["erf by division"](e, x)
    ops, ctx = run(e, e("add", PRODUCTS[product](e, x, gate), gate), "recognize,dce")
    assert "gelu" not in ops and "outside-use" in ctx.log.decisions[0].reason


@pytest.mark.parametrize(("half", "root"), [(0.501, math.sqrt(2)), (0.5, 1.5)])
def test_gelu_with_other_numbers_is_none(half: float, root: float) -> None:
    e = Expression()
    x = e.input("x", 3, 4)
    ops, ctx = run(e, e("mul", half, e("mul", x, e("add", e("erf", e("div", x, root)), 1))), "recognize,dce")
    assert "gelu" not in ops and not ctx.log.decisions


def test_gelu_of_another_x_is_none() -> None:
    e = Expression()
    x, z = e.input("x", 3, 4), e.input("z", 3, 4)
    ops, _ = run(e, PRODUCTS["(x (1 + g)) 0.5"](e, x, GATES["erf by division"](e, z)), "recognize,dce")
    assert "gelu" not in ops


def test_gelu_that_broadcasts_is_refused() -> None:
    e = Expression()
    x = e.input("x", 4)
    half = e.const([[0.5]])
    ops, ctx = run(e, e("mul", half, e("mul", x, e("add", GATES["erf by division"](e, x), 1))), "recognize,dce")
    assert "gelu" not in ops and ctx.log.decisions[0].reason.startswith("types")


# ---- attention --------------------------------------------------------------------------------------------------


class Serves(CpuTarget):
    """The CPU, as if it had a kernel for attention."""

    def refuses(self, node: Node) -> str | None:
        return None if node.op.name == "attention" else super().refuses(node)


def heads(e: Expression, name: str, perm: tuple[int, ...], length: int = 5) -> Value:
    """x[B,S,H*D] as heads in the order that `perm` says."""
    x = e.input(name, 2, length, 12)
    return e("transpose", e("reshape", x, e.const([2, length, 3, 4], np.int64)), perm=perm)


def spelled(e: Expression, spelling: str) -> Value:
    q, v = heads(e, "q", (0, 2, 1, 3)), heads(e, "v", (0, 2, 1, 3), 6)
    k = heads(e, "k", (0, 2, 3, 1), 6)  # transposed at once, as torch's exporter has it
    if spelling == "sqrt at q and k":
        q, k = e("mul", q, 4**-0.25), e("mul", k, 4**-0.25)
    if spelling == "at q":
        q = e("div", q, 2)
    s = e("matmul", q, k)
    if spelling == "div":
        s = e("div", s, 2)
    if spelling in ("mask", "mask first"):
        mask = e.input("mask", 2, 1, 5, 6)
        s = e("mul", s, 0.5)
        s = e("add", s, mask) if spelling == "mask" else e("add", mask, s)
    if spelling == "mask and bias":
        s = e("add", e("add", e("div", s, 2), e.input("mask", 2, 1, 5, 6)), e.input("bias", 3, 1, 6))
    return e("matmul", e("softmax", s, axis=-1), v)


@pytest.mark.parametrize("spelling", ["plain", "div", "at q", "sqrt at q and k", "mask", "mask first", "mask and bias"])
def test_attention(spelling: str) -> None:
    e = Expression()
    ops, _ = run(e, spelled(e, spelling), "recognize,canonicalize,dce", Serves())
    assert "attention" in ops and "softmax" not in ops and "matmul" not in ops
    node = next(n for n in e.module.main if n.op.name == "attention")
    assert node.attr("scale") == pytest.approx(1.0 if spelling == "plain" else 0.5)
    assert (node.operand(3) is not None) == spelling.startswith("mask")
    assert sum(op == "transpose" for op in ops) == 3


class Lacks(CpuTarget):
    """The CPU without a kernel for attention."""

    def refuses(self, node: Node) -> str | None:
        return "there is no kernel" if node.op.name == "attention" else super().refuses(node)


@pytest.mark.parametrize(("target", "reason"), [(Lacks(), "there is no kernel"), (None, "there is no target")])
def test_attention_is_refused_where_no_kernel_serves_it(target, reason: str) -> None:
    e = Expression()
    ops, ctx = run(e, spelled(e, "mask"), "recognize,dce", target)
    (d,) = ctx.log.decisions
    assert "softmax" in ops and d.outcome == "refused" and d.reason.startswith(reason)


def refused(e: Expression, y: Value) -> str:
    ops, ctx = run(e, y, "recognize,dce", Serves())
    assert "attention" not in ops
    return ctx.log.decisions[-1].reason


def test_attention_whose_weights_are_read_elsewhere() -> None:
    e = Expression()
    q, k, v = (e.input(n, 1, 2, 3, 4) for n in "qkv")
    p = e("softmax", e("matmul", q, e("transpose", k, perm=(0, 1, 3, 2))), axis=-1)
    assert "outside-use" in refused(e, e("add", e("matmul", p, v), e("reduce_sum", p, e.const([3], np.int64))))


def test_attention_without_heads_or_over_queries() -> None:
    e = Expression()
    q, k, v = (e.input(n, 2, 3, 4) for n in "qkv")
    assert "[batch, heads, queries, keys]" in refused(
        e, e("matmul", e("softmax", e("matmul", q, e("transpose", k, perm=(0, 2, 1))), axis=-1), v)
    )


def test_attention_of_grouped_keys_and_of_no_product() -> None:
    e = Expression()
    q, k, v = e.input("q", 1, 2, 3, 4), e.input("k", 1, 1, 4, 3), e.input("v", 1, 1, 3, 4)
    assert "different heads" in refused(e, e("matmul", e("softmax", e("matmul", q, k), axis=-1), v))
    e = Expression()
    s, v = e.input("s", 1, 2, 3, 3), e.input("v", 1, 2, 3, 4)
    assert "no product" in refused(e, e("matmul", e("softmax", s, axis=-1), v))
    e = Expression()
    s, t, v = e.input("s", 1, 2, 3, 3), e.input("t", 1, 2, 3, 3), e.input("v", 1, 2, 3, 4)
    assert "no scores and a mask" in refused(e, e("matmul", e("softmax", e("add", s, t), axis=-1), v))


def test_attention_with_a_negative_factor() -> None:
    e = Expression()
    q, k, v = (e.input(n, 1, 2, 3, 3) for n in "qkv")
    assert "not positive" in refused(e, e("matmul", e("softmax", e("mul", e("matmul", q, k), -1), axis=-1), v))


def test_normalization_keeps_dynamic_sizes_out() -> None:
    """A mean over axes that are only known at run time is no layer norm."""
    e = Expression()
    x, axes = e.input("x", 3, 4), e.input("axes", 1, dtype=I64)
    e.module.main.inputs[1].type = TensorType(I64, (1,))
    m = e("reduce_mean", x, axes)
    c = e("sub", x, m)
    r = e("sqrt", e("add", e("reduce_mean", e("mul", c, c), axes), 1e-5))
    e.module.main.set_outputs([e("div", c, r)])
    ctx = Context()
    run_pipeline(e.module, parse_pipeline("recognize"), ctx)
    assert "layer_norm" not in [n.op.name for n in e.module.main]
    assert "not over the same last axes" in ctx.log.decisions[0].reason
