"""Operators that the target has no kernel for are opened into simpler ones, where it has kernels for all of these.

`@opens("name")` announces how: a function from a node and a Builder to the values that take the place of the node's results, or to
a Refusal. f16 and bf16 are widened to f32 in between, as the operators' own definitions have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core import Module, Node, Value
from ..errors import InferenceError
from ..ops.linalg import parse_equation
from ..rewrite import Builder, Refusal, refuse
from ..symbols import DimLike, product, symbols_of
from ..target import Target
from ..types import BF16, F16, F32, I32, I64, STR, TensorType
from .manager import Context, register
from .movement import VIEWS

Open = Callable[[Node, Builder], Any]
OPENERS: dict[str, Open] = {}
FREE = frozenset({*VIEWS, "identity", "shape", "size", "dims"})  # no kernel runs for these


def opens(*names: str) -> Callable[[Open], Open]:
    """Announces how operators are opened."""

    def add(fn: Open) -> Open:
        OPENERS.update(dict.fromkeys(names, fn))
        return fn

    return add


@register
@dataclass(frozen=True)
class Decompose:
    """Opens what the target cannot serve; with `always` whatever can be opened."""

    name: ClassVar[str] = "decompose"
    always: bool = False

    def run(self, module: Module, ctx: Context) -> bool:
        target, changed = ctx.target, False
        assert target is not None or self.always, "the pass decompose needs a target"
        for graph in module.open_graphs():
            for node in graph:
                if node.op.name in OPENERS and (self.always or (target is not None and target.refuses(node) is not None)):
                    changed |= self._open(node, target, ctx)
        return changed

    def _open(self, node: Node, target: Target | None, ctx: Context) -> bool:
        b = Builder(node, node.locs)
        try:
            out = OPENERS[node.op.name](node, b)
        except InferenceError as e:
            out = refuse(str(e))
        if not isinstance(out, Refusal) and not self.always and target is not None:
            out = _unserved(b, target) or out
        if isinstance(out, Refusal):
            b.undo()
            ctx.log.record(f"decompose {node.op.name}", node, "refused", str(out))
            return False
        values = list(out) if isinstance(out, (tuple, list)) else [out]
        ctx.log.record(f"decompose {node.op.name}", node, "applied", " + ".join(n.op.name for n in b.added))
        for old, new in zip(node.results, values):
            if new.node in b.added:
                old.name, new.name = new.name, old.name
        assert node.graph is not None
        node.graph.replace(node, values[: len(node.results)])
        return True


def _unserved(b: Builder, target: Target) -> Refusal | None:
    for n in b.added:
        strings = any(isinstance(r.type, TensorType) and r.tensor.dtype is STR for r in n.results)  # no target moves those
        reason = None if n.op.name in FREE or strings else target.refuses(n)
        if reason is not None:
            return refuse(f"the target has no kernel for the piece {n.op.name}", why=reason)
    return None


def _ints(b: Builder, *values: int) -> Value:
    return b.const(np.array(values, np.int64))


def _number(b: Builder, value: float, like: Value) -> Value:
    return b.const(np.array(value, like.tensor.dtype.np))


def _wide(b: Builder, x: Value) -> Value:
    return b.op("cast", x, to=F32) if x.tensor.dtype in (F16, BF16) else x


def _narrow(b: Builder, x: Value, like: Value) -> Value:
    return x if x.tensor.dtype is like.tensor.dtype else b.op("cast", x, to=like.tensor.dtype)


# ---- recurrent layers -------------------------------------------------------------------------------------------


@opens("lstm", "gru", "rnn")
def _recurrent(node: Node, b: Builder) -> Any:
    if node.operands[0].tensor.dtype not in (F16, BF16):  # type: ignore[union-attr]
        return refuse("neither f16 nor bf16, which could be widened")

    def widened(v: Value) -> Value:  # constants stay constants: the kernels pack their weights
        a = v.array
        return b.const(a.astype(np.float32)) if a is not None and v.tensor.dtype in (F16, BF16) else _wide(b, v)

    wide = (v if v is None else widened(v) for v in node.operands)
    out = b.op(node.op.name, *wide, results=len(node.results), **node.attrs)
    return [_narrow(b, new, old) for new, old in zip(out if isinstance(out, tuple) else (out,), node.results)]


# ---- normalizations ---------------------------------------------------------------------------------------------


def _centred(b: Builder, x: Value, axes: Sequence[int]) -> tuple[Value, Value]:
    """x without its mean over axes, and its variance there."""
    over = _ints(b, *axes)
    centred = b.op("sub", x, b.op("reduce_mean", x, over, keepdims=1))
    return centred, b.op("reduce_mean", b.op("mul", centred, centred), over, keepdims=1)


@opens("mean_variance_norm")
def _mean_variance_norm(node: Node, b: Builder) -> Any:
    x = _wide(b, node.operands[0])  # type: ignore[arg-type]
    centred, variance = _centred(b, x, node.attr("axes"))
    deviation = b.op("add", b.op("sqrt", variance), _number(b, 1e-9, x))
    return _narrow(b, b.op("div", centred, deviation), node.result)


@opens("layer_norm")
def _layer_norm(node: Node, b: Builder) -> Any:
    rank = node.operands[0].tensor.rank  # type: ignore[union-attr]
    if rank is None or len(node.results) > 1:
        return refuse("the rank is not known, or the statistics are read")
    x = _wide(b, node.operands[0])  # type: ignore[arg-type]
    centred, variance = _centred(b, x, range(node.attr("axis") % rank, rank))
    root = b.op("sqrt", b.op("add", variance, _number(b, node.attr("epsilon"), x)))
    y = b.op("mul", b.op("div", centred, root), _wide(b, node.operands[1]))  # type: ignore[arg-type]
    bias = node.operand(2)
    return _narrow(b, y if bias is None else b.op("add", y, _wide(b, bias)), node.result)


@opens("rms_norm")
def _rms_norm(node: Node, b: Builder) -> Any:
    rank = node.operands[0].tensor.rank  # type: ignore[union-attr]
    if rank is None or node.operands[1].tensor.dtype is not node.operands[0].tensor.dtype:  # type: ignore[union-attr]
        return refuse("the rank is not known, or the scale has another type")
    x, axes = _wide(b, node.operands[0]), range(node.attr("axis") % rank, rank)  # type: ignore[arg-type]
    mean = b.op("reduce_mean", b.op("mul", x, x), _ints(b, *axes), keepdims=1)
    y = b.op("div", x, b.op("sqrt", b.op("add", mean, _number(b, node.attr("epsilon"), x))))
    return _narrow(b, b.op("mul", y, _wide(b, node.operands[1])), node.result)  # type: ignore[arg-type]


@opens("lrn")
def _lrn(node: Node, b: Builder) -> Any:
    """The mean of squares over a window of channels is an average pool of x[N,1,C,...] along C; the padding counts."""
    rank, size = node.operands[0].tensor.rank, node.attr("size")  # type: ignore[union-attr]
    if rank is None or rank < 3:
        return refuse("the rank is not known, or there are no spatial axes")
    x = _wide(b, node.operands[0])  # type: ignore[arg-type]
    spatial, axis = rank - 2, _ints(b, 1)
    squares = b.op("unsqueeze", b.op("mul", x, x), axis)
    before, after = (size - 1) // 2, size // 2
    mean = b.op("average_pool", squares, kernel_shape=(size,) + (1,) * spatial, count_include_pad=1,
                pads=(before, *(0,) * spatial, after, *(0,) * spatial))  # fmt: skip
    scaled = b.op("mul", b.op("squeeze", mean, axis), _number(b, node.attr("alpha"), x))
    base = b.op("add", scaled, _number(b, node.attr("bias"), x))
    return _narrow(b, b.op("div", x, b.op("pow", base, _number(b, node.attr("beta"), x))), node.result)


# ---- einsum -----------------------------------------------------------------------------------------------------

Labelled = tuple[Value, list[str]]  # a value and the labels of its axes


def _dims(b: Builder, dims: Sequence[DimLike]) -> Value | None:
    """A shape as an operand, None where a run cannot tell it from its inputs."""
    if all(isinstance(d, int) for d in dims):
        return _ints(b, *dims)  # type: ignore[arg-type]
    if any(s.name not in b.facts.known for d in dims for s in symbols_of(d)):
        return None
    return b.op("dims", value=tuple(dims), dtype=I64)


def _arranged(b: Builder, v: Value, labels: Sequence[str], order: Sequence[str]) -> Value:
    """`v`, whose axes have the given labels, with its axes in another order."""
    perm = tuple(labels.index(x) for x in order)
    return v if perm == tuple(range(len(perm))) else b.op("transpose", v, perm=perm)


def _summed(b: Builder, v: Value, labels: list[str], keep: set[str]) -> Labelled:
    """`v` summed over the axes whose labels nobody keeps."""
    gone = [i for i, x in enumerate(labels) if x not in keep]
    if not gone:
        return v, labels
    return b.op("reduce_sum", v, _ints(b, *gone), keepdims=0), [x for x in labels if x in keep]


def _spelled(labels: Sequence[str], dots: int) -> list[str]:
    """The labels with a label of its own for each axis that "..." stands for; axes that are broadcast together share one."""
    return [y for x in labels for y in ([f".{i}" for i in range(dots, 0, -1)] if x == "..." else [x])]


@opens("einsum")
def _einsum(node: Node, b: Builder) -> Any:
    """One operand: a sum and a transpose. More: from left to right, batched products of matrices between reshapes."""
    terms, out = parse_equation(node.attr("equation"), len(node.operands))
    shapes = [v.tensor.shape for v in node.operands]  # type: ignore[union-attr]
    if any(s is None for s in shapes) or any(len(set(t)) != len(t) for t in terms):
        return refuse("an unknown rank, or a label twice in one operand", equation=node.attr("equation"))
    dots = [len(s) - len(t) + 1 if "..." in t else 0 for s, t in zip(shapes, terms)]  # type: ignore[arg-type]
    named, out = [_spelled(t, n) for t, n in zip(terms, dots)], _spelled(out, max(dots))
    sizes: dict[str, DimLike] = {}
    for labels, shape in zip(named, shapes):
        for label, d in zip(labels, shape or ()):
            if 1 not in (d, sizes.setdefault(label, d)) and sizes[label] != d:
                return refuse("sizes are not known to agree", label=label)
            sizes[label] = d if sizes[label] == 1 else sizes[label]
    acc, *rest = [_squeezed(b, v, labels, sizes) for v, labels in zip(node.operands, named)]  # type: ignore[arg-type]
    acc = _summed(b, *acc, {*out}.union(*(t for _, t in rest)))
    for i, (v, labels) in enumerate(rest):
        later = {*out}.union(*(t for _, t in rest[i + 1 :]))
        right = _summed(b, v, labels, later.union(acc[1]))
        order = out if i == len(rest) - 1 else [k for k in dict.fromkeys(acc[1] + right[1]) if k in later]
        z = _product(b, acc, right, order, sizes)
        if isinstance(z, Refusal):
            return z
        acc = (z, list(order))
    return _arranged(b, *acc, out)


def _squeezed(b: Builder, v: Value, labels: list[str], sizes: dict[str, DimLike]) -> Labelled:
    """`v` without the axes of size 1 that another operand has longer."""
    ones = [i for i, (x, d) in enumerate(zip(labels, v.tensor.shape or ())) if d == 1 != sizes[x]]
    return (b.op("squeeze", v, _ints(b, *ones)), [x for i, x in enumerate(labels) if i not in ones]) if ones else (v, labels)


def _product(b: Builder, first: Labelled, second: Labelled, out: Sequence[str], sizes: dict[str, DimLike]) -> Value | Refusal:
    (x, left), (y, right) = first, second
    batch = [k for k in left if k in right and k in out]
    inner = [k for k in left if k in right and k not in out]
    rows, columns = [k for k in left if k not in right], [k for k in right if k not in left]

    def grouped(v: Value, labels: list[str], *groups: list[str]) -> Value | None:
        v = _arranged(b, v, labels, [*batch, *groups[0], *groups[1]])
        if len(groups[0]) == 1 and len(groups[1]) == 1:
            return v
        shape = _dims(b, [*(sizes[k] for k in batch), *(product(sizes[k] for k in g) for g in groups)])
        return None if shape is None else b.op("reshape", v, shape, allowzero=1)

    p, q = grouped(x, left, rows, inner), grouped(y, right, inner, columns)
    order = [*batch, *rows, *columns]
    shape = _dims(b, [sizes[k] for k in order])
    if p is None or q is None or shape is None:
        return refuse("the sizes are known only at run time")
    z = b.op("matmul", p, q)
    if len(rows) != 1 or len(columns) != 1:
        z = b.op("reshape", z, shape, allowzero=1)
    return _arranged(b, z, order, out)


# ---- losses, quantization ---------------------------------------------------------------------------------------


@opens("nll_loss", "softmax_cross_entropy_loss")
def _loss(node: Node, b: Builder) -> Any:
    x, target, weight = node.operands[0], node.operands[1], node.operand(2)
    classes, ignore = x.tensor.shape[1] if x.tensor.shape else None, node.attr("ignore_index")  # type: ignore[union-attr]
    if not isinstance(classes, int) or classes == 0:
        return refuse("the number of classes is not known")
    log_prob = _wide(b, x)  # type: ignore[arg-type]
    if node.op.name == "softmax_cross_entropy_loss":
        log_prob = b.op("log_softmax", log_prob, axis=1)
    zero = _number(b, 0, target)  # type: ignore[arg-type]
    # A negative target is no class: it becomes one past the end, which gather_elements refuses.
    safe = b.op("where", b.op("less", target, zero), _number(b, classes, target), target)  # type: ignore[arg-type]
    ignored = None if ignore is None else b.op("equal", target, _number(b, ignore, target))  # type: ignore[arg-type]
    if ignored is not None:
        safe = b.op("where", ignored, zero, safe)
    axis = _ints(b, 1)
    picked = b.op("neg", b.op("squeeze", b.op("gather_elements", log_prob, b.op("unsqueeze", safe, axis), axis=1), axis))
    ones = _number(b, 1, picked)
    weights = b.op("expand", ones, b.op("shape", target)) if weight is None else b.op("gather", _wide(b, weight), safe, axis=0)
    if ignored is not None:
        weights = b.op("where", ignored, _number(b, 0, picked), weights)
    loss = b.op("mul", picked, weights)
    if ignored is not None:
        loss = b.op("where", ignored, _number(b, 0, picked), loss)
    if node.attr("reduction") != "none":
        total = b.op("reduce_sum", loss, keepdims=0)
        loss = total if node.attr("reduction") == "sum" else b.op("div", total, b.op("reduce_sum", weights, keepdims=0))
    results = [_narrow(b, loss, node.results[0])]
    return results + ([_narrow(b, log_prob, node.results[1])] if len(node.results) > 1 else [])


def _per_axis(b: Builder, v: Value, rank: int, axis: int) -> Value:
    """A vector along one axis, shaped to broadcast; a scalar as it is."""
    if v.tensor.rank != 1 or v.tensor.shape == (1,):
        return b.op("reshape", v, b.const(np.zeros(0, np.int64))) if v.tensor.rank == 1 else v
    axes = [i for i in range(rank) if i != axis % rank]
    return b.op("unsqueeze", v, _ints(b, *axes)) if axes else v


@opens("dequantize_linear")
def _dequantize_linear(node: Node, b: Builder) -> Any:
    """(x - zero_point) * scale, multiplied in f32."""
    x, scale, zero = node.operands[0], node.operands[1], node.operand(2)
    rank, axis = x.tensor.rank, node.attr("axis")  # type: ignore[union-attr]
    if rank is None or node.attr("block_size") or any(v is not None and v.tensor.rank not in (0, 1) for v in (scale, zero)):
        return refuse("the rank is not known, or scales belong to blocks")
    middle = I32 if x.tensor.dtype.is_integer else F32  # type: ignore[union-attr]
    y = b.op("cast", x, to=middle)
    if zero is not None:
        y = b.op("sub", y, b.op("cast", _per_axis(b, zero, rank, axis), to=middle))
    y = b.op("mul", b.op("cast", y, to=F32), b.op("cast", _per_axis(b, scale, rank, axis), to=F32))  # type: ignore[arg-type]
    return _narrow(b, y, node.result)
