"""Random ONNX graphs: a few nodes over a pool of tensors, each drawn so that it fits what there is.

    g = draw(graphs())          # g.model, g.inputs(seed, sizes): arrays for its inputs

Every value's shape is known for two assignments of sizes to the symbolic dims, so that shapes fit in both, and one executable is run
with either. Element types and ranks are drawn from a small set for each graph: kernels are keyed by them, and compiling one takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.printer
from hypothesis import strategies as st
from onnx import helper, numpy_helper

Shape = tuple[int, ...]
SIZES = {"N": (3, 5), "M": (2, 4)}
FLOAT_UNARY = ("Exp", "Tanh", "Sigmoid", "Erf", "Relu", "LeakyRelu", "Elu", "Softplus", "Softsign", "Sin", "Cos", "Sqrt", "Abs", "Neg", "Floor", "Ceil",
               "Round", "Sign", "HardSigmoid", "Selu", "Atan", "Identity", "HardSwish", "Reciprocal")  # fmt: skip
INT_UNARY = ("Abs", "Neg", "Sign", "Identity")
FLOAT_BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min")
INT_BINARY = ("Add", "Sub", "Mul", "Max", "Min")
COMPARE = ("Less", "Greater", "Equal", "LessOrEqual", "GreaterOrEqual")
REDUCE_FLOAT = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare", "ReduceL1", "ReduceLogSumExp")
REDUCE_INT = ("ReduceSum", "ReduceMax", "ReduceMin")


@dataclass(frozen=True)
class V:
    """A value: its name, numpy type, dims (symbols by name) and what these are under both assignments."""

    name: str
    dtype: np.dtype
    shapes: tuple[Shape, Shape]

    @property
    def rank(self) -> int:
        return len(self.shapes[0])


@dataclass(repr=False)
class G:
    """A graph while it is drawn."""

    draw: Callable
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: list[V] = field(default_factory=list)
    inits: dict[str, np.ndarray] = field(default_factory=dict)
    dims: dict[str, list[int | str]] = field(default_factory=dict)
    count: int = 0

    def __repr__(self) -> str:
        return "\n" + onnx.printer.to_text(self.model)

    def fresh(self, base: str) -> str:
        self.count += 1
        return f"{base}{self.count}"

    def add(self, op_type: str, inputs: Sequence[str], dtype: Any, shapes: tuple[Shape, Shape], **attrs: Any) -> V:
        v = V(self.fresh(op_type.lower()), np.dtype(dtype), shapes)
        self.nodes.append(helper.make_node(op_type, list(inputs), [v.name], **attrs))
        self.values.append(v)
        return v

    def const(self, a: Any) -> str:
        name = self.fresh("c")
        self.inits[name] = np.asarray(a)
        return name

    def pick(self, fits: Callable[[V], bool] = lambda v: True) -> V | None:
        found = [v for v in self.values if fits(v)]
        return found[self.draw(st.integers(0, len(found) - 1))] if found else None

    def one(self, items: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def axis(self, v: V) -> int:
        return self.draw(st.integers(-v.rank, v.rank - 1))

    @property
    def model(self) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(v.dtype), self.dims[v.name])
                  for v in self.values if v.name in self.dims]  # fmt: skip
        read = {n for node in self.nodes for n in node.input}
        outs = [v for v in self.values if v.name not in self.dims and v.name not in read] or self.values[-1:]
        outputs = [helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(v.dtype), None) for v in outs]
        graph = helper.make_graph(
            self.nodes, "fuzz", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in self.inits.items()]
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def inputs(self, which: int, seed: int) -> dict[str, np.ndarray]:
        """Arrays for the inputs under one assignment of sizes."""
        rng = np.random.default_rng(seed)
        return {v.name: contents(rng, v.dtype, v.shapes[which]) for v in self.values if v.name in self.dims}


def contents(rng: np.random.Generator, dtype: np.dtype, shape: Shape) -> np.ndarray:
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape) * 2, dtype)
    return np.asarray(rng.integers(0 if dtype.kind == "u" else -9, 10, shape), dtype)


def broadcast(a: V, b: V) -> tuple[Shape, Shape] | None:
    """The shapes of both under either assignment; None where they do not fit, or fit in one only."""
    try:
        first, second = (np.broadcast_shapes(x, y) for x, y in zip(a.shapes, b.shapes))
    except ValueError:
        return None
    return (first, second) if max(np.prod(first), np.prod(second)) < 5000 else None


def elementwise_unary(g: G) -> None:
    v = g.pick(lambda v: v.dtype.kind in "fi")
    if v:
        g.add(g.one(FLOAT_UNARY if v.dtype.kind == "f" else INT_UNARY), [v.name], v.dtype, v.shapes)


def elementwise_binary(g: G) -> None:
    a = g.pick(lambda v: v.dtype.kind in "fiu")
    b = a and g.pick(lambda v: v.dtype == a.dtype and broadcast(a, v) is not None)
    if a and b:
        g.add(g.one(FLOAT_BINARY if a.dtype.kind == "f" else INT_BINARY), [a.name, b.name], a.dtype, broadcast(a, b))  # type: ignore[arg-type]


def integer_division(g: G) -> None:
    a = g.pick(lambda v: v.dtype.kind in "iu")
    if a:
        by = g.const(np.array(g.one([1, 2, 3, 7]) * (g.one([1, -1]) if a.dtype.kind == "i" else 1), a.dtype))
        op_type = g.one(["Div", "Mod"])
        g.add(op_type, [a.name, by], a.dtype, a.shapes)


def with_scalar(g: G) -> None:
    v = g.pick(lambda v: v.dtype.kind == "f")
    if v:
        g.add(
            g.one(["Add", "Mul", "Sub", "Div", "Max"]),
            [v.name, g.const(np.array(g.one([0.5, -2.0, 3.0]), v.dtype))],
            v.dtype,
            v.shapes,
        )


def comparison(g: G) -> None:
    a = g.pick(lambda v: v.dtype.kind in "fiu")
    b = a and g.pick(lambda v: v.dtype == a.dtype and broadcast(a, v) is not None)
    if a and b:
        g.add(g.one(COMPARE), [a.name, b.name], np.bool_, broadcast(a, b))  # type: ignore[arg-type]


def where(g: G) -> None:
    c = g.pick(lambda v: v.dtype.kind == "b")
    a = c and g.pick(lambda v: v.dtype.kind in "fiu" and broadcast(c, v) is not None)
    b = a and g.pick(lambda v: v.dtype == a.dtype and v.shapes == a.shapes)
    if c and a and b:
        g.add("Where", [c.name, a.name, b.name], a.dtype, broadcast(c, a))  # type: ignore[arg-type]


def logical(g: G) -> None:
    a = g.pick(lambda v: v.dtype.kind == "b")
    if a:
        op_type = g.one(["Not", "And", "Or", "Xor"])
        g.add(op_type, [a.name] * (1 if op_type == "Not" else 2), np.bool_, a.shapes)


def cast(g: G) -> None:
    v = g.pick()
    to = g.one([d for d in (np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int64)) if d != v.dtype])  # type: ignore[union-attr]
    if v.dtype.kind != "f" or to.kind == "f":  # type: ignore[union-attr]  # what does not fit an integer is open
        g.add("Cast", [v.name], to, v.shapes, to=helper.np_dtype_to_tensor_dtype(to))  # type: ignore[union-attr]


def reduction(g: G) -> None:
    v = g.pick(lambda v: v.dtype.kind in "fi" and v.rank > 0 and 0 not in v.shapes[0] + v.shapes[1] and v.dtype.itemsize >= 4)
    if not v:
        return
    axes = sorted(g.draw(st.sets(st.integers(0, v.rank - 1), min_size=1)))
    keep = g.one([0, 1])
    shapes = tuple(tuple(1 if i in axes else n for i, n in enumerate(s) if keep or i not in axes) for s in v.shapes)
    signed = [a - v.rank if g.one([True, False]) else a for a in axes]
    g.add(
        g.one(REDUCE_FLOAT if v.dtype.kind == "f" else REDUCE_INT),
        [v.name, g.const(np.array(signed, np.int64))],
        v.dtype,
        shapes,
        keepdims=keep,
    )  # type: ignore[arg-type]


def row_norm(g: G) -> None:
    v = g.pick(lambda v: v.dtype == np.float32 and v.rank > 0 and 0 not in v.shapes[0] + v.shapes[1])
    if v and v.shapes[0][-1] == v.shapes[1][-1] and g.one([True, False]):
        n = v.shapes[0][-1]
        scale = g.const(np.linspace(0.5, 1.5, n, dtype=np.float32))
        g.add("LayerNormalization", [v.name, scale], v.dtype, v.shapes, axis=-1)
    elif v:
        g.add(g.one(["Softmax", "LogSoftmax"]), [v.name], v.dtype, v.shapes, axis=g.axis(v))


def transpose(g: G) -> None:
    v = g.pick(lambda v: v.rank > 1)
    if v:
        perm = g.draw(st.permutations(range(v.rank)))
        g.add("Transpose", [v.name], v.dtype, tuple(tuple(s[p] for p in perm) for s in v.shapes), perm=perm)  # type: ignore[arg-type]


def unsqueeze(g: G) -> None:
    v = g.pick(lambda v: v.rank < 4)
    if v:
        at = g.draw(st.integers(0, v.rank))
        g.add("Unsqueeze", [v.name, g.const(np.array([at], np.int64))], v.dtype, tuple((*s[:at], 1, *s[at:]) for s in v.shapes))  # type: ignore[arg-type]


def squeeze(g: G) -> None:
    v = g.pick(lambda v: any(a == b == 1 for a, b in zip(*v.shapes)))
    if v:
        at = next(i for i, (a, b) in enumerate(zip(*v.shapes)) if a == b == 1)
        g.add(
            "Squeeze", [v.name, g.const(np.array([at - v.rank], np.int64))], v.dtype, tuple(s[:at] + s[at + 1 :] for s in v.shapes)
        )  # type: ignore[arg-type]


def flatten(g: G) -> None:
    v = g.pick(lambda v: v.rank > 0)
    if v:
        at = g.draw(st.integers(0, v.rank))
        shapes = tuple((int(np.prod(s[:at])), int(np.prod(s[at:]))) for s in v.shapes)
        g.add("Flatten", [v.name], v.dtype, shapes, axis=at)  # type: ignore[arg-type]


def reshape(g: G) -> None:
    v = g.pick(lambda v: v.rank > 0 and 0 not in v.shapes[0] + v.shapes[1])
    if v:
        shapes = tuple((int(np.prod(s)),) for s in v.shapes)
        g.add("Reshape", [v.name, g.const(np.array([-1], np.int64))], v.dtype, shapes)  # type: ignore[arg-type]


def by_shape(g: G) -> None:
    """Shape arithmetic as exporters write it: the shape of a value, an entry replaced, a Reshape or an Expand to it."""
    v = g.pick(lambda v: v.rank == 2)
    if not v:
        return
    shape = g.add("Shape", [v.name], np.int64, ((2,), (2,)))
    first = g.add("Gather", [shape.name, g.const(np.array([0], np.int64))], np.int64, ((1,), (1,)), axis=0)
    last = g.add("Gather", [shape.name, g.const(np.array([-1], np.int64))], np.int64, ((1,), (1,)), axis=0)
    to = g.add("Concat", [g.const(np.array([1], np.int64)), last.name, first.name], np.int64, ((3,), (3,)), axis=0)
    g.add("Reshape", [v.name, to.name], v.dtype, tuple((1, b, a) for a, b in v.shapes), allowzero=1)  # type: ignore[arg-type]


def expand(g: G) -> None:
    v = g.pick(lambda v: 0 < v.rank < 4 and max(np.prod(s) for s in v.shapes) < 500)
    if v:
        to = [2] + [1] * v.rank
        g.add("Expand", [v.name, g.const(np.array(to, np.int64))], v.dtype, tuple((2, *s) for s in v.shapes))  # type: ignore[arg-type]


def concat(g: G) -> None:
    a = g.pick(lambda v: v.rank > 0 and max(np.prod(s) for s in v.shapes) < 2000)
    if a:
        axis = g.axis(a)
        at = axis % a.rank

        def fits(v: Any, a: Any = a, at: int = at) -> bool:
            same_rank = all(len(x) == len(y) for x, y in zip(v.shapes, a.shapes))
            return (
                v.dtype == a.dtype
                and same_rank
                and all(x[:at] + x[at + 1 :] == y[:at] + y[at + 1 :] for x, y in zip(v.shapes, a.shapes))
            )

        b = g.pick(fits)
        shapes = tuple((*x[:at], x[at] + y[at], *x[at + 1 :]) for x, y in zip(a.shapes, b.shapes))  # type: ignore[union-attr]
        g.add("Concat", [a.name, b.name], a.dtype, shapes, axis=axis)  # type: ignore[union-attr, arg-type]


def slicing(g: G) -> None:
    v = g.pick(lambda v: v.rank > 0)
    if v:
        at = g.draw(st.integers(0, v.rank - 1))
        start, stop, step = g.one(
            [(0, 1, 1), (1, 1 << 60, 1), (-1, -(1 << 60), -1), (-2, 1 << 60, 1), (0, 1 << 60, 2), (2, 2, 1), (1 << 40, 0, -2)]
        )
        shapes = tuple((*s[:at], len(range(s[at])[slice(start, stop, step)]), *s[at + 1 :]) for s in v.shapes)
        consts = [g.const(np.array([n], np.int64)) for n in (start, stop, g.one([at, at - v.rank]), step)]
        g.add("Slice", [v.name, *consts], v.dtype, shapes)  # type: ignore[arg-type]


def gather(g: G) -> None:
    v = g.pick(lambda v: v.rank > 0 and all(min(s) > 0 for s in v.shapes))
    if v:
        axis = g.axis(v)
        at = axis % v.rank
        index = g.one([np.array([0, -1]), np.array(-1), np.array([[0], [-1], [0]]), np.zeros(0, np.int64)])
        shapes = tuple((*s[:at], *index.shape, *s[at + 1 :]) for s in v.shapes)
        g.add("Gather", [v.name, g.const(index)], v.dtype, shapes, axis=axis)  # type: ignore[arg-type]


def pad(g: G) -> None:
    v = g.pick(lambda v: v.dtype.kind == "f" and v.rank > 0)
    if v:
        widths = [g.one([0, 1, 2]) for _ in range(2 * v.rank)]
        shapes = tuple(tuple(n + widths[i] + widths[i + v.rank] for i, n in enumerate(s)) for s in v.shapes)
        g.add("Pad", [v.name, g.const(np.array(widths, np.int64)), g.const(np.array(1.5, v.dtype))], v.dtype, shapes)  # type: ignore[arg-type]


def matmul(g: G) -> None:
    v = g.pick(lambda v: v.dtype == np.float32 and v.rank >= 1 and v.shapes[0][-1] == v.shapes[1][-1])
    if v:
        k, n = v.shapes[0][-1], g.one([1, 4, 17])
        w = g.const(np.random.default_rng(k).standard_normal((k, n)).astype(np.float32))
        out = g.add("MatMul", [v.name, w], v.dtype, tuple((*s[:-1], n) for s in v.shapes))  # type: ignore[arg-type]
        if g.one([True, False]):
            g.add("Add", [out.name, g.const(np.linspace(-1, 1, n, dtype=np.float32))], out.dtype, out.shapes)


def products(g: G) -> None:
    v = g.pick(lambda v: v.dtype == np.float32 and v.rank >= 2 and max(np.prod(s) for s in v.shapes) < 500)
    if v:
        perm = [*range(v.rank - 2), v.rank - 1, v.rank - 2]
        t = g.add("Transpose", [v.name], v.dtype, tuple((*s[:-2], s[-1], s[-2]) for s in v.shapes), perm=perm)  # type: ignore[arg-type]
        g.add("MatMul", [v.name, t.name], v.dtype, tuple((*s[:-1], s[-2]) for s in v.shapes))  # type: ignore[arg-type]


def window(n: int, k: int, stride: int, pads: int) -> int:
    return (n + 2 * pads - k) // stride + 1


def convolution(g: G) -> None:
    v = g.pick(
        lambda v: (
            v.dtype == np.float32
            and v.rank == 4
            and v.shapes[0][1] == v.shapes[1][1] > 0
            and all(min(s[2:]) >= 3 for s in v.shapes)
        )
    )
    if not v:
        return
    c, k, stride, pads = v.shapes[0][1], g.one([1, 3]), g.one([1, 2]), g.one([0, 1])
    kind = g.one(["conv", "depthwise", "max", "average"])
    spatial = [[window(n, k, stride, pads if kind in ("conv", "depthwise") or k > 1 else 0) for n in s[2:]] for s in v.shapes]
    attrs: dict[str, Any] = {
        "kernel_shape": [k, k],
        "strides": [stride] * 2,
        "pads": [pads if kind in ("conv", "depthwise") or k > 1 else 0] * 4,
    }
    if kind in ("conv", "depthwise"):
        group, out = (c, c) if kind == "depthwise" else (1, g.one([1, 5, 16]))
        w = np.random.default_rng(c).standard_normal((out, c // group, k, k)).astype(np.float32) * 0.3
        x = g.add("Conv", [v.name, g.const(w), g.const(np.linspace(-1, 1, out, dtype=np.float32))], v.dtype,
                  tuple((s[0], out, *hw) for s, hw in zip(v.shapes, spatial)), group=group, **attrs)  # type: ignore[arg-type]  # fmt: skip
        if g.one([True, False]):
            g.add(g.one(["Relu", "Sigmoid", "HardSwish"]), [x.name], x.dtype, x.shapes)
        return
    shapes = tuple((s[0], c, *hw) for s, hw in zip(v.shapes, spatial))
    g.add("MaxPool" if kind == "max" else "AveragePool", [v.name], v.dtype, shapes, **attrs)  # type: ignore[arg-type]


def branch(g: G) -> None:
    """An If over whether the elements of a value sum to more than 0; its branches read outer values."""
    v = g.pick(lambda v: v.dtype == np.float32 and 0 not in v.shapes[0] + v.shapes[1])
    if not v:
        return
    total = g.add("ReduceSum", [v.name], v.dtype, ((), ()), keepdims=0)
    cond = g.add("Greater", [total.name, g.const(np.float32(0))], np.bool_, ((), ()))
    g.values.pop()
    bodies = [
        onnx.helper.make_graph([helper.make_node(op_type, [v.name], [g.fresh("b")])], "b", [], []) for op_type in ("Neg", "Exp")
    ]
    for b in bodies:
        b.output.append(helper.make_tensor_value_info(b.node[0].output[0], 1, None))
    g.add("If", [cond.name], v.dtype, v.shapes, then_branch=bodies[0], else_branch=bodies[1])


def loop(g: G) -> None:
    """Three trips, a carried value and one that is stacked."""
    v = g.pick(lambda v: v.dtype == np.float32 and 0 < v.rank < 4)
    if not v:
        return
    i, c, a, b, d, s = (g.fresh("l") for _ in range(6))
    nodes = [helper.make_node("Mul", [a, v.name], [b]), helper.make_node("Identity", [c], [d]), helper.make_node("Tanh", [b], [s])]
    body = helper.make_graph(nodes, "body", [helper.make_tensor_value_info(i, 7, []), helper.make_tensor_value_info(c, 9, []),
                                             helper.make_tensor_value_info(a, 1, None)],
                             [helper.make_tensor_value_info(d, 9, []), helper.make_tensor_value_info(b, 1, None), helper.make_tensor_value_info(s, 1, None)])  # fmt: skip
    last, stacked = V(g.fresh("loop"), v.dtype, v.shapes), V(g.fresh("stacked"), v.dtype, tuple((3, *x) for x in v.shapes))  # type: ignore[arg-type]
    g.nodes.append(helper.make_node("Loop", [g.const(np.int64(3)), "", v.name], [last.name, stacked.name], body=body))
    g.values += [last, stacked]


def nonzero(g: G) -> None:
    """Sizes that depend on contents: the end of the line, since the sizes are not known here."""
    v = g.pick(lambda v: v.dtype.kind in "fib" and v.rank > 0)
    if v:
        name, count = g.fresh("nz"), g.fresh("count")
        g.nodes += [helper.make_node("NonZero", [v.name], [name]), helper.make_node("Shape", [name], [count])]
        g.values.append(V(count, np.dtype(np.int64), ((2,), (2,))))


STEPS = (elementwise_unary, elementwise_binary, elementwise_binary, integer_division, with_scalar, comparison, where, logical, cast, reduction,
         reduction, row_norm, transpose, unsqueeze, squeeze, flatten, reshape, by_shape, expand, concat, slicing, gather, pad, matmul, products,
         convolution, convolution, branch, loop, nonzero)  # fmt: skip


@st.composite
def graphs(draw, steps: int = 8) -> G:
    """A graph of one to `steps` drawn steps."""
    g = G(draw)
    dims_of = {0: [], 1: [["N"], [7], [0]], 2: [["N", "M"], ["N", 8], [4, 6], ["N", 1]], 3: [["N", "M", 8], [2, "N", 4]],
               4: [["N", 3, 8, 8], [1, 4, 6, 5], ["N", 2, "M", 9]]}  # fmt: skip
    for _ in range(draw(st.integers(1, 3))):
        dtype = np.dtype(draw(st.sampled_from(["float32"] * 5 + ["int32", "int64", "float64", "uint8", "int8", "float16"])))
        rank = draw(st.sampled_from([0, 1, 2, 2, 3, 4, 4]))
        dims = draw(st.sampled_from(dims_of[rank])) if rank else []
        name = g.fresh("x")
        g.dims[name] = list(dims)
        g.values.append(V(name, dtype, tuple(tuple(SIZES[d][k] if isinstance(d, str) else d for d in dims) for k in (0, 1))))  # type: ignore[arg-type]
    for _ in range(draw(st.integers(1, steps))):
        draw(st.sampled_from(STEPS))(g)
    if not g.nodes:
        g.add("Identity", [g.values[0].name], g.values[0].dtype, g.values[0].shapes)
    return g
