"""Matrix products against numpy, and the epilogues that a fused.gemm region may hold."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.core import Graph, Node
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.types import F32, TensorType, dtype_of
from graphmill.kernels.cpu.gemm import can_fuse_epilogue, pack_panels
from graphmill.kernels.cpu.target import select
from graphmill.kernels.cpu.tiling import Tiling
from graphmill.kernels.spec import KernelSource, Refusal

from .harness import assert_close, check_native, make_node, reference, run_kernel

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def rand(*shape: int, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def fused(anchor: Node, steps: list[tuple[str, list, int]]) -> tuple[Node, list[np.ndarray]]:
    """A fused.gemm node: the anchor, then (operator, arrays of its other operands, place of the chain); and the arrays it takes."""
    module, body, outer, arrays = anchor.graph.module, None, [], []
    body = Graph("body", module)
    known: dict = {}

    def enter(v):
        if v not in known:
            outer.append(v)
            known[v] = body.add_input(v.name, v.type)
        return known[v]

    t = anchor.results[0].type
    inner = [None if v is None else enter(v) for v in anchor.operands]
    last = body.add(anchor.op, inner, anchor.attrs, names=["anchor"], types=[t]).results[0]
    for name, others, place in steps:
        operands = []
        for a in others:
            layout = t.layout if a.shape == t.shape else None
            v = module.main.add_input("extra", TensorType(dtype_of(a), a.shape, layout))
            arrays.append(a)
            operands.append(enter(v))
        operands.insert(place, last)
        last = body.add(OPS[name], operands, {}, names=["step"], types=[t]).results[0]
    body.set_outputs([last])
    return module.main.add(OPS["fused"], outer, {"kernel": "gemm"}, names=["y"], types=[t], regions=[body]), arrays


def expect(steps: list[tuple[str, list, int]], value: np.ndarray) -> np.ndarray:
    for name, others, place in steps:
        operands = list(others)
        operands.insert(place, value)
        value = reference(OPS[name], operands, {})[0]
    return value


SHAPES = [
    ((5, 7), (7, 30)), ((1, 64), (64, 100)), ((49, 33), (33, 50)), ((13, 0), (0, 20)), ((0, 4), (4, 5)), ((4, 5), (5, 0)), ((200,
     300), (300, 8)),
    ((2, 3, 5, 7), (7, 30)), ((7,), (7, 30)), ((3, 7), (7,)), ((7,), (7,)), ((2, 3, 5, 7), (3, 7, 30)), ((3, 1, 3, 7), (2, 7, 9)),
     ((7,), (4, 7, 30)),
]  # fmt: skip


@pytest.mark.parametrize("constants", [(), (1,)], ids=["dynamic", "constant"])
@pytest.mark.parametrize("a, b", SHAPES)
def test_matmul(a, b, constants):
    arrays = [rand(*a), rand(*b, seed=1)]
    got = run_kernel(make_node("matmul", arrays, constants=constants), arrays)[0]
    assert_close(got, np.matmul(*arrays), **CLOSE)


def test_every_row_count_and_width():
    b = rand(9, 41, seed=1)
    for rows in range(1, 30):
        a = rand(rows, 9)
        assert_close(run_kernel(make_node("matmul", [a, b]), [a, b])[0], a @ b, **CLOSE)
    a = rand(5, 9)
    for columns in range(1, 60, 3):
        b = rand(9, columns)
        assert_close(run_kernel(make_node("matmul", [a, b]), [a, b])[0], a @ b, **CLOSE)


@pytest.mark.parametrize("name", ["matmul", "gemm"])
def test_examples(name):
    share = check_native(name, 1e-4, 1e-4) if name == "gemm" else check_native(name, 2e-3, 2e-3)
    assert share.served >= 10, str(share)


def test_special_values_reach_only_their_row_and_column():
    a, b = rand(6, 8), rand(8, 30, seed=1)
    a[2, 3], b[5, 7] = np.nan, np.inf
    got = run_kernel(make_node("matmul", [a, b], constants=(1,)), [a, b])[0]
    assert_close(got, a @ b, **CLOSE)


def test_tiles_may_run_in_any_number():
    """The bits do not depend on how many tiles the work is cut into."""
    a, b = rand(150, 64), rand(64, 200, seed=1)
    node = make_node("matmul", [a, b], constants=(1,))
    source = select(node)
    assert isinstance(source, KernelSource)
    whole = run_kernel(node, [a, b], source=source)[0]
    bind = source.bind
    for tiles in (1, 3):

        def again(call, tiles=tiles):
            launch = bind(call)
            return type(launch)(launch.ints, tiles, launch.scratch * tiles)

        other = KernelSource(source.text, again, source.variant, source.pack)
        np.testing.assert_array_equal(run_kernel(node, [a, b], source=other)[0], whole)


def test_pack_panels():
    t = Tiling(2, (0, 1, 1, 1))
    b = np.arange(2 * 7, dtype=np.float32).reshape(2, 7)
    assert t.widths(7) == (0, 2, 0)
    assert pack_panels(b, t).tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 4, 5, 6, 0, 11, 12, 13, 0]
    assert [t.widths(n) for n in (1, 2, 6, 8, 10)] == [(0, 0, 1), (0, 0, 1), (1, 0, 0), (0, 2, 0), (1, 1, 0)]


EPILOGUES = {
    "relu": lambda n, shape: [("add", [rand(n)], 0), ("relu", [], 0)],
    "residual": lambda n, shape: [("mul", [np.float32(0.5).reshape(())], 0), ("add", [rand(*shape)], 1), ("relu", [], 0)],
    "gelu": lambda n, shape: [("add", [rand(n)], 1), ("gelu", [], 0)],
    "clip": lambda n, shape: [("min", [np.float32(0.3).reshape(1)], 0), ("max", [np.float32(-0.2).reshape(1)], 0)],
}


@pytest.mark.parametrize("constants", [(), (1,)], ids=["dynamic", "constant"])
@pytest.mark.parametrize("kind", EPILOGUES)
def test_fused_matmul(kind, constants):
    a, b = rand(2, 5, 33), rand(33, 50, seed=1)
    a[0, 0, 0] = np.nan
    steps = EPILOGUES[kind](50, (2, 5, 50))
    node, extra = fused(make_node("matmul", [a, b], constants=constants), steps)
    assert_close(run_kernel(node, [a, b, *extra])[0], expect(steps, a @ b), **CLOSE)


def test_what_cannot_be_fused_says_why():
    a, b = rand(4, 6), rand(6, 8)
    anchor = make_node("matmul", [a, b])
    graph = anchor.graph

    def step(name: str, other: np.ndarray) -> Node:
        v = graph.add_input("o", TensorType(dtype_of(other), other.shape))
        shape = np.broadcast_shapes((4, 8), other.shape)
        t = TensorType(F32, shape)
        return graph.add(OPS[name], [anchor.results[0], v], names=["s"], types=[t])

    assert can_fuse_epilogue(anchor, step("add", rand(8)), 0) is None
    assert can_fuse_epilogue(anchor, step("add", rand(4, 8)), 0) is None
    for other in (rand(4, 1), rand(3, 4, 8)):
        refusal = can_fuse_epilogue(anchor, step("add", other), 0)
        assert isinstance(refusal, Refusal) and str(refusal)


def test_layouts_are_refused():
    a, b = rand(2, 3, 4), rand(4, 5)
    types = [TensorType(dtype_of(a), a.shape, channels_last(3)), TensorType(dtype_of(b), b.shape)]
    assert isinstance(select(make_node("matmul", [a, b], types=types)), Refusal)


def test_sigmoid_of_anything():
    """The sum 1 + exp(-x) of an epilogue is made at once: at its ends and beyond it is what the two steps give."""
    edges = [0.0, -0.0, 1e-40, 87.0, 88.0, 88.8, 89.1, 104.0, 1e30, np.inf]
    a = np.float32([*edges, *(-e for e in edges), np.nan, *np.linspace(-20, 20, 43)]).reshape(-1, 1)
    b, steps = np.ones((1, 9), np.float32), [("sigmoid", [], 0)]
    node, extra = fused(make_node("matmul", [a, b], constants=(1,)), steps)
    with np.errstate(over="ignore"):
        want = (1 / (1 + np.exp(-a.astype(np.float64)))).repeat(9, 1)
    assert_close(run_kernel(node, [a, b, *extra])[0], want.astype(np.float32), rtol=1e-6, atol=1e-38)
