"""The whole pipeline on random graphs: every pass leaves a module that verifies, prints and parses, and computes what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from graphmill.ir import interp
from graphmill.ir.core import Graph, Module, Value
from graphmill.ir.infer import infer_node
from graphmill.ir.op import OPS
from graphmill.ir.parser import parse_module
from graphmill.ir.passes.manager import Context, parse_pipeline, run_pipeline
from graphmill.ir.printer import print_module
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BOOL, F32, F64, TensorType
from graphmill.kernels.cpu.target import CpuTarget
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PORTABLE = "infer,canonicalize,fold,canonicalize,cse,user,recognize,sink-transposes,canonicalize,decompose,fold-scales,fold,cse,dce"
PIPELINE = PORTABLE + ",layout,fuse,dce"
UNARY = ("relu", "neg", "abs", "sigmoid", "tanh", "identity", "exp", "round", "erf")
BINARY = ("add", "sub", "mul", "max", "min")
NUMBERS = (0.0, -0.0, 1.0, 2.0, 0.5, -1.5, 6.0, 0.25)


@dataclass
class Grown:
    """A random module in the making, and the values that further nodes may read."""

    module: Module = field(default_factory=Module)
    pool: list[Value] = field(default_factory=list)

    def add(self, op: str, *operands: Any, results: int = 1, graph: Any = None, **attrs: Any) -> Any:
        node = (graph or self.module.main).add(OPS[op], operands, attrs, names=["v"] * results, locs=[f"{op} {len(self.pool)}"])
        infer_node(node)
        self.pool += node.results if graph is None else []
        return node.results[0] if results == 1 else node.results

    def const(self, x: Any, dtype: Any = np.float32) -> Value:
        return self.module.add_const("c", np.array(x, dtype))


def rank_of(v: Value) -> int:
    return len(v.tensor.shape)  # type: ignore[arg-type]


def weights(draw: st.DrawFn, *shape: int) -> np.ndarray:
    return np.random.default_rng(draw(st.integers(0, 9))).normal(size=shape).astype(np.float32)


def elementwise(draw: st.DrawFn, g: Grown, x: Value) -> None:
    kind = draw(st.sampled_from(["unary", "const", "vector", "pair", "clip", "power", "cast", "gate"]))
    if kind == "unary":
        g.add(draw(st.sampled_from(UNARY)), x)
    elif kind == "const":
        pair = [x, g.const(draw(st.sampled_from(NUMBERS)))]
        g.add(draw(st.sampled_from(BINARY)), *(pair if draw(st.booleans()) else pair[::-1]))
    elif kind == "vector" and rank_of(x) and isinstance(x.tensor.shape[-1], int):
        g.add(draw(st.sampled_from(BINARY)), x, g.const(weights(draw, x.tensor.shape[-1])))
    elif kind == "pair":
        alike = [v for v in g.pool if v.type == x.type]
        g.add(draw(st.sampled_from(BINARY)), x, draw(st.sampled_from(alike)))
    elif kind == "clip":
        g.add("clip", x, g.const(draw(st.sampled_from([-1.0, 0.0, 2.0]))), g.const(draw(st.sampled_from([3.0, 1.0]))))
    elif kind == "power":
        g.add(*draw(st.sampled_from([("pow", x, g.const(2.0)), ("div", x, g.const(4.0)), ("div", x, g.const(3.0))])))
    elif kind == "cast":
        g.add("cast", g.add("cast", x, to=draw(st.sampled_from([F32, F64]))), to=F32)
    elif kind == "gate":
        g.add("mul", x, g.add("sigmoid", x))


def movement(draw: st.DrawFn, g: Grown, x: Value) -> None:
    kinds = ["transpose", "flatten", "unsqueeze", "reshape", "concat", "split", "slice", "pad"]
    rank, kind = rank_of(x), draw(st.sampled_from(kinds))
    axis = draw(st.integers(0, max(rank - 1, 0)))
    size = x.tensor.shape[axis] if rank else 1
    if kind == "transpose":
        perm = tuple(draw(st.permutations(range(rank))))
        y = g.add("transpose", x, perm=perm)
        if draw(st.booleans()):
            g.add("transpose", g.add("relu", y), perm=tuple(np.argsort(perm).tolist()))
    elif kind == "flatten":
        g.add("flatten", x, axis=axis)
    elif kind == "unsqueeze" and rank < 5:
        axes = g.const([axis], np.int64)
        y = g.add("unsqueeze", x, axes)
        if draw(st.booleans()):
            g.add("squeeze", y, axes)
    elif kind == "reshape" and rank:
        first = g.add("gather", g.add("shape", x), g.const([0], np.int64), axis=0)
        g.add("reshape", x, g.add("concat", first, g.const([-1], np.int64), axis=0))
        del g.pool[-4:-1]
    elif kind == "concat" and rank:
        j = g.add("concat", x, x, axis=axis)
        if draw(st.booleans()) and isinstance(size, int):
            bounds = [g.const([i], np.int64) for i in (size, 2 * size, axis)]
            g.add("slice", j, *bounds)
    elif kind == "split" and rank and isinstance(size, int) and size > 1:
        parts = g.add("split", x, g.const([1, size - 1], np.int64), results=2, axis=axis)
        g.add("concat", *draw(st.permutations(parts)), axis=axis)
    elif kind == "slice" and rank:
        g.add("slice", x, *(g.const([i], np.int64) for i in (draw(st.sampled_from([0, 1])), 1 << 40, axis)))
    elif kind == "pad" and rank:
        g.add("pad", x, g.const([draw(st.integers(0, 1)) for _ in range(2 * rank)], np.int64))


def heavy(draw: st.DrawFn, g: Grown, x: Value) -> None:
    rank, kind = rank_of(x), draw(st.sampled_from(["reduce", "softmax", "matmul", "gemm", "conv", "norm", "if", "pool"]))
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=2, unique=True)) if rank else []
    last = x.tensor.shape[-1] if rank else None
    if kind == "reduce" and rank:
        name = draw(st.sampled_from(["reduce_sum", "reduce_max", "reduce_mean"]))
        g.add(name, x, g.const(axes, np.int64), keepdims=draw(st.integers(0, 1)))
    elif kind == "softmax" and rank:
        g.add("softmax", x, axis=axes[0])
    elif kind == "matmul" and rank > 1 and isinstance(last, int):
        y = g.add("matmul", x, g.const(weights(draw, last, 3)))
        if draw(st.booleans()):
            g.add("add", y, g.const(weights(draw, 3)))
    elif kind == "gemm" and rank == 2 and isinstance(last, int):
        g.add("gemm", x, g.const(weights(draw, 3, last)), g.const(weights(draw, 3)), transB=1)
    elif kind in ("conv", "pool") and rank == 4 and isinstance(x.tensor.shape[1], int):
        if kind == "pool":
            g.add("max_pool", x, kernel_shape=(1, 1))
        else:
            y = g.add("conv", x, g.const(weights(draw, 2, x.tensor.shape[1], 1, 1)))
            ones = [g.const(np.abs(weights(draw, 2)) + 1) for _ in range(4)]
            g.add("batch_norm", y, *ones) if draw(st.booleans()) else g.add("mul", y, g.const(weights(draw, 2, 1, 1)))
    elif kind == "norm" and rank and isinstance(last, int):
        c = g.add("sub", x, g.add("reduce_mean", x, g.const([-1], np.int64)))
        variance = g.add("reduce_mean", g.add("mul", c, c), g.const([-1], np.int64))
        y = g.add("div", c, g.add("sqrt", g.add("add", variance, g.const(0.5))))
        g.add("mul", y, g.const(weights(draw, last)))
    elif kind == "if":
        conditional(draw, g, x)


def conditional(draw: st.DrawFn, g: Grown, x: Value) -> None:
    condition = draw(st.sampled_from([g.module.main.inputs[1], g.const(True, bool), g.const(False, bool)]))
    then, other = Graph("then_branch", g.module), Graph("else_branch", g.module)
    then.set_outputs([g.add("relu", g.add("neg", x, graph=then), graph=then)])
    other.set_outputs([x])
    node = g.module.main.add(OPS["if"], [condition], names=["if"], regions=[then, other])
    infer_node(node)
    g.pool += node.results


@st.composite
def modules(draw: st.DrawFn) -> Module:
    g = Grown()
    dims: list[Any] = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    if draw(st.booleans()):
        dims[0] = symbol("N", 1)
        g.module.symbols["N"] = next(iter(dims[0].terms))[0][0]
    g.pool.append(g.module.main.add_input("x", TensorType(F32, tuple(dims))))
    g.module.main.add_input("flag", TensorType(BOOL, ()))
    for _ in range(draw(st.integers(1, 10))):
        x = draw(st.sampled_from(g.pool[-4:]))
        if x.tensor.dtype is F32 and rank_of(x) < 6:
            draw(st.sampled_from([elementwise, elementwise, movement, heavy]))(draw, g, x)
    floats = [v for v in g.pool if v.tensor.dtype is F32]
    outputs = [*draw(st.lists(st.sampled_from(floats), max_size=2)), floats[-1]]
    g.module.main.set_outputs(outputs)
    g.module.output_names = [f"out{i}" for i in range(len(outputs))]
    return g.module


def round_trip(pass_: Any, module: Module) -> None:
    blobs: dict[str, np.ndarray] = {}
    text = print_module(module, blobs=blobs)
    assert print_module(parse_module(text, blobs), blobs={}) == text, pass_


def close(a: np.ndarray, b: np.ndarray) -> None:
    scale = max(1.0, float(np.max(np.abs(a), where=np.isfinite(a), initial=0)))
    np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * scale)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(modules(), st.booleans())
def test_the_pipeline_keeps_what_a_module_computes(module: Module, flag: bool) -> None:
    rng = np.random.default_rng(0)
    shape = [d if isinstance(d, int) else 3 for d in module.main.inputs[0].tensor.shape]
    inputs = {"x": rng.uniform(-2, 2, shape).astype(np.float32), "flag": np.array(flag)}
    before = interp.run(module, inputs)
    if not all(np.isfinite(a).all() and np.max(np.abs(a), initial=0) < 1e6 for a in before.values()):
        return  # rounding decides what overflows
    run_pipeline(module, parse_pipeline(PIPELINE), Context(target=CpuTarget()), round_trip)
    after = interp.run(module, inputs)
    assert list(after) == list(before)
    for name, a in before.items():
        assert after[name].shape == a.shape and after[name].dtype == a.dtype
        close(a, after[name])


def test_the_comparison_can_fail() -> None:
    with pytest.raises(AssertionError):
        close(np.float32([1, 2]), np.float32([1, 2.1]))
