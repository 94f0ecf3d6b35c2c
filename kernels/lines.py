"""Operators that work on lines of a tensor: softmax and its relatives, and the normalizations.

A target offers two things, to fold a line into a value and to map it (`Line`), so that each operator is written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..ir.core import Node, Value
from ..ir.errors import RunError
from ..ir.recording import greatest
from ..ir.types import BOOL, FLOATS, DType, TensorType
from .operands import host_value, refuse_layouts
from .printer import literal, register, supported
from .row_regions import refuse_parameter
from .spec import Call, Refusal

Map = Callable[[str], str]  # from the name of an element (on the CPU a vector, mostly) to an expression of the text


@dataclass(frozen=True, slots=True)
class Array:
    """An array in a text: the name of its address, its dtype, where a line begins, and the step along it."""

    name: str
    dtype: str
    start: str = "o"
    step: str = ""

    def at(self, j: str) -> str:
        return f"{self.name}, {self.start} + {j}{' * ' + self.step if self.step else ''}"


class Line(Protocol):
    """Lines of n elements, one (or a vector of neighbouring ones) at a time, as texts."""

    def fold(self, out: str, fn: str, zero: str, x: Any, value: Map, keep: Any = None) -> list[str]:
        """`out`: the fold of value(x) over the line; `keep` takes the values themselves."""

    def map(self, x: Any, y: Any, value: Map, others: Sequence[Array] = ()) -> list[str]:
        """y = value(x) over the line; `others` are loaded beside it, under their names with a v."""


def unsupported(node: Node, types: Sequence[TensorType]) -> Refusal | None:
    """Why the floating-point operands of a node cannot be computed together."""
    for t in types:
        if t.dtype not in FLOATS or register(t.dtype) != register(types[0].dtype):
            return Refusal("the operands are not all computed in one floating-point type", {"type": t, "first": types[0]})
    return None


def overwritable(node: Node) -> frozenset[int]:
    """Operand 0, where the result may take its memory: every element is read for the last time just before it is written."""
    x = node.operands[0]
    assert x is not None
    alone = not x.is_const and x not in node.operands[1:]
    return frozenset({0} if alone and x.tensor.dtype.itemsize == node.results[0].tensor.dtype.itemsize else ())


def tensors(*values: Value | None) -> list[TensorType]:
    return [v.tensor for v in values if v is not None]


def norm_axis(node: Node) -> int | Refusal:
    """Where the rows of a layer_norm or rms_norm begin."""
    x, scale, bias = node.operand(0), node.operand(1), node.operand(2)
    t = x.tensor  # type: ignore[union-attr]
    axis = node.attr("axis") % max(t.rank or 0, 1)
    refusal = refuse_layouts(node) or unsupported(node, tensors(x, scale, bias, node.results[0]))
    return refusal or refuse_parameter(t, scale, axis) or refuse_parameter(t, bias, axis) or axis


def group_sizes(node: Node, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Of instance_norm and group_norm: images, groups of each, channels of a group, elements of a channel."""
    n, channels, *space = shape or (0, 0)
    many = channels if node.op.name == "instance_norm" else node.attr("num_groups")
    return n, many, channels // greatest(many, 1), math.prod(space)


@dataclass(frozen=True, slots=True)
class Along:
    """The lines of an operator along one axis, or (`flat`) over it and all behind it; `contiguous`: whether their elements are
    neighbours."""

    axis: int
    flat: bool
    contiguous: bool

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Outer places, elements of a line, their distance."""
        split = self.axis + 1 if shape and not self.flat else len(shape)
        return math.prod(shape[: self.axis]), math.prod(shape[self.axis : split]), math.prod(shape[split:])


def along(node: Node) -> Along | Refusal:
    """How a softmax, log_softmax or lp_norm, which reads row-major operands, cuts them into lines."""
    t = node.operands[0].tensor  # type: ignore[union-attr]
    refusal = refuse_layouts(node) or unsupported(node, [t])
    if refusal is not None:
        return refusal
    shape = t.shape or ()
    axis = node.attr("axis") % max(len(shape), 1)
    flat = node.op.name != "lp_norm" and bool(node.attr("flatten"))
    return Along(axis, flat, flat or all(d == 1 for d in shape[axis + 1 :]))


def along_extreme(node: Node) -> Along | Refusal:
    """The lines along which arg_max and arg_min look for an extreme."""
    x = node.operands[0].tensor  # type: ignore[union-attr]
    refusal = refuse_layouts(node)
    if refusal is None and not supported(x.dtype):
        refusal = Refusal("an element type that kernels do not compute with", {"x": x})
    axis = node.attr("axis") % (x.rank or 1)
    return refusal or Along(axis, False, all(d == 1 for d in (x.shape or ())[axis + 1 :]))


def check_extreme(node: Node, axis: int, call: Call) -> Sequence[int]:
    """The operand's shape. Raises RunError where a line that has no elements should have an extreme."""
    shape = call.operands[0] or (1,)
    if shape[axis] == 0 and math.prod(call.results[0]):
        raise RunError(f"node %{node.name} ({node.op.name}): axis {axis} of {list(shape)} is empty, it has no extreme")
    return shape


def refuse_running(node: Node) -> Refusal | None:
    """Why no kernel serves running sums or products."""
    x = node.operands[0].tensor  # type: ignore[union-attr]
    if not supported(x.dtype) or x.dtype is BOOL or not x.rank:
        return Refusal("running sums are of numbers along an axis", {"x": x})
    return refuse_layouts(node)


def running_line(node: Node, host: set[int]) -> Callable[[Call], tuple[int, int, int]]:
    """How `bind` learns of the lines of a running sum: how many there are, elements of one, their distance. Their axis may be the
    contents of operand 1, which is added to `host` then."""
    axis = host_value(node, 1, host)

    def line(call: Call) -> tuple[int, int, int]:
        shape = call.operands[0] or ()
        at = int(np.asarray(axis(call)).item())
        if not -len(shape) <= at < len(shape):
            raise RunError(f"node %{node.name} ({node.op.name}): axis {at} of a tensor of rank {len(shape)}")
        outer, n, inner = Along(at % len(shape), False, False).sizes(shape)
        return outer * inner, n, inner

    return line


# ---- softmax, log_softmax, lp_norm ------------------------------------------------------------------------------


def softmax_lines(line: Line, x: Array, e: Array, y: Array, acc: DType) -> list[str]:
    top = [*line.fold("top", "maximum", literal(-math.inf, acc), x, lambda v: v)]
    total = line.fold("total", "add", literal(0, acc), x, lambda v: f"exp(sub({v}, top))", keep=e)
    return [*top, *total, f"scale = div({literal(1, acc)}, total)", *line.map(e, y, lambda v: f"mul({v}, scale)")]


def log_softmax_lines(line: Line, x: Array, e: Array, y: Array, acc: DType) -> list[str]:
    top = [*line.fold("top", "maximum", literal(-math.inf, acc), x, lambda v: v)]
    total = line.fold("total", "add", literal(0, acc), x, lambda v: f"exp(sub({v}, top))")
    return [*top, *total, "low = log(total)", *line.map(x, y, lambda v: f"sub(sub({v}, top), low)")]


def lp_norm(p: int) -> Callable[..., list[str]]:
    def lines(line: Line, x: Array, e: Array, y: Array, acc: DType) -> list[str]:
        zero, one = literal(0, acc), literal(1, acc)
        total = line.fold("total", "add", zero, x, (lambda v: f"absolute({v})") if p == 1 else lambda v: f"mul({v}, {v})")
        root = [] if p == 1 else ["total = sqrt(total)"]
        last = [f"none = eq(total, {zero})", f"total = where(none, {one}, total)"]
        return [*total, *root, *last, *line.map(x, y, lambda v: f"where(none, {zero}, div({v}, total))")]

    return lines


def formula(node: Node) -> Callable[..., list[str]]:
    """What a softmax, log_softmax or lp_norm does with a line x to y, by an array e of exponentials."""
    return {"softmax": softmax_lines, "log_softmax": log_softmax_lines}.get(node.op.name) or lp_norm(node.attr("p"))


# ---- normalizations ---------------------------------------------------------------------------------------


def mean_and_inverse(line: Line, x: Array, acc: DType, epsilon: float) -> list[str]:
    """`mean` and `inverse`, one over the square root of the variance plus epsilon; two passes, for accuracy."""
    zero = literal(0, acc)
    return [*line.fold("total", "add", zero, x, lambda v: v), "mean = div(total, size)",
            *line.fold("total", "add", zero, x, lambda v: f"square(sub({v}, mean))"), *_inverse(acc, epsilon)]  # fmt: skip


def _inverse(acc: DType, epsilon: float) -> list[str]:
    return [f"inverse = div({literal(1, acc)}, sqrt(add(div(total, size), {literal(epsilon, acc)})))"]


def norm_lines(line: Line, node: Node, x: Array, y: Array, acc: DType) -> list[str]:
    """layer_norm or rms_norm of a row of x to y; the scale lies at the address `s`, the bias at `b`."""
    epsilon, size = node.attr("epsilon"), [f"size = to_{acc}(n)"]
    if node.op.name == "rms_norm":
        body = [*size, *line.fold("total", "add", literal(0, acc), x, lambda v: f"mul({v}, {v})"), *_inverse(acc, epsilon)]
    else:
        body = [*size, *mean_and_inverse(line, x, acc, epsilon)]
    named = (("s", node.operand(1)), ("b", node.operand(2)))
    others = [Array(n, v.tensor.dtype.name, "0") for n, v in named if v is not None]
    form = "mul({0}, inverse)" if node.op.name == "rms_norm" else "mul(sub({0}, mean), inverse)"
    form = f"mul({form}, vs)" if node.operand(1) is not None else form
    form = f"add({form}, vb)" if node.operand(2) is not None else form
    return body + line.map(x, y, form.format, others)


def anchor_lines(line: Line, anchor: Node, x: Array, y: Array, acc: DType) -> list[str]:
    """The work of a softmax or normalization on a row, which it may overwrite."""
    return norm_lines(line, anchor, x, y, acc) if anchor.op.name.endswith("norm") else formula(anchor)(line, x, x, y, acc)


CHANNEL = "add(mul(sub({0}, mean), scale), bias)"


def channel(place: str, dtype: str) -> list[str]:
    """`scale` and `bias` of a channel, which `CHANNEL` applies; they lie at `place` of the addresses `s` and `b`."""
    return [f"k = {place}", f"scale = mul(inverse, ld_{dtype}(s, k))", f"bias = ld_{dtype}(b, k)"]


def root(variance: str, epsilon: float, acc: DType) -> str:
    """What batch normalization divides by."""
    return f"sqrt(add({variance}, {literal(epsilon, acc)}))"


BATCH_NORM = "add(mul(div(sub({0}, vmean), root), vs), vb)"


def refuse_batch_norm(node: Node) -> Refusal | None:
    """Why no kernel serves a batch normalization, its layout apart."""
    if node.attr("training_mode") or not node.attr("spatial"):
        return Refusal("training mode, or statistics by element")
    return unsupported(node, tensors(*node.operands))
