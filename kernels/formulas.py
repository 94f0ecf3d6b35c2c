"""Casts to the type of another operand, and linear quantization: one scalar formula each, over operands that are broadcast.

A scale for each index of an axis is a broadcast along the other axes; one for each block is a broadcast within the axis split into
blocks, which is how both the operand and the scale are seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir.core import Node
from ..ir.ops.cast import cast_value
from ..ir.ops.quant import dequantize, quantize
from ..ir.scalar import Expr, trace
from ..ir.types import TensorType
from .operands import refuse_layouts, refuse_strings
from .printer import supported
from .space import Space, make_space
from .spec import Call, Dims, Refusal

Reshape = Callable[[int, Dims], Dims]  # operand's index and shape to the shape that the loops see
FORMULAS = ("cast_like", "quantize_linear", "dequantize_linear")


@dataclass(frozen=True)
class Formula:
    """An expression over a node's present operands (`slots`), seen as those of `space`; `reshape` brings sizes to that view."""

    expr: Expr
    space: Space
    slots: list[int]
    count: int  # of the node's operands, present or not
    reshape: Reshape

    @property
    def loaded(self) -> list[int]:
        """The operands of the space that are read."""
        used = _arguments(self.expr)
        return [k for k, i in enumerate(self.slots) if i in used]

    def arguments(self, names: Mapping[int, str]) -> list[str]:
        """What stands for the expression's arguments, given the names of the loaded operands."""
        return [names.get(self.slots.index(i), "") if i in self.slots else "" for i in range(self.count)]

    def seen(self, call: Call) -> Call:
        """A call as the space sees it."""
        shapes = [None if s is None else self.reshape(i, s) for i, s in enumerate(call.operands)]
        return replace(call, operands=shapes, results=[self.reshape(0, call.results[0])])


def formula_of(node: Node) -> Formula | Refusal:
    """The formula of a node of one of FORMULAS."""
    return _cast_like(node) if node.op.name == "cast_like" else _linear(node)


def _formula(node: Node, e: Expr, types: Sequence[TensorType], result: TensorType, reshape: Reshape) -> Formula | Refusal:
    if any(not supported(t.dtype) for t in (*types, result)):
        return Refusal("an element type that kernels do not compute with", {"types": [*map(str, types), str(result)]})
    space = make_space(types, result)
    if isinstance(space, Refusal):
        return space
    return Formula(e, space, [i for i, v in enumerate(node.operands) if v is not None], len(node.operands), reshape)


def _arguments(e: Expr) -> set[int]:
    return {e.value} if e.fn == "arg" else set().union(*map(_arguments, e.args)) if e.args else set()


def _cast_like(node: Node) -> Formula | Refusal:
    """A cast to the element type of operand 1, whose elements are not read."""
    x, target = node.operands[0].tensor, node.operands[1].tensor
    refusal = refuse_strings(node)
    if refusal is not None:
        return refusal
    e = trace(cast_value, [x.dtype], {"to": target.dtype, "saturate": node.attr("saturate"), "round_mode": node.attr("round_mode")})
    one = TensorType(target.dtype, ())
    return _formula(node, e, [x, one], node.results[0].tensor, lambda i, shape: shape if i == 0 else ())


def _linear(node: Node) -> Formula | Refusal:
    """quantize_linear or dequantize_linear, with one scale, one an index of an axis, or one a block."""
    y, present = node.results[0].tensor, [None if v is None else v.tensor.dtype for v in node.operands]
    if node.op.name == "quantize_linear":
        e = trace(quantize, present, {"to": y.dtype, "saturate": node.attr("saturate"), "precision": node.attr("precision")})
    else:
        e = trace(dequantize, present, {"to": y.dtype})
    x, block = node.operands[0].tensor, node.attr("block_size")
    axis = node.attr("axis") % max(x.rank or 0, 1)
    parameters = [v.tensor for v in node.operands[1:] if v is not None]
    many = any(not _is_one(t.shape) for t in parameters)
    if not many:
        return _formula(node, e, [x, *(t.with_(shape=()) for t in parameters)], y, lambda i, s: s if i == 0 else ())
    if not block:
        return _per_axis(node, e, axis)
    return _blocked(node, e, axis, block)


def _is_one(shape: Sequence[object]) -> bool:
    return all(d == 1 for d in shape)


def _per_axis(node: Node, e: Expr, axis: int) -> Formula | Refusal:
    x, behind = node.operands[0].tensor, (1,) * ((node.operands[0].tensor.rank or 0) - axis - 1)
    if any(v is not None and (v.tensor.rank or 0) > 1 and not _is_one(v.tensor.shape) for v in node.operands[1:]):
        return Refusal("a scale or zero point of several axes without blocks", {"scale": node.operands[1].type})

    def reshape(i: int, shape: Sequence) -> tuple:
        return tuple(shape) if i == 0 else () if _is_one(shape) else (*shape, *behind)

    types = [v.tensor.with_(shape=reshape(i, v.tensor.shape)) for i, v in enumerate(node.operands) if v is not None]
    if any(i and t.shape and t.shape[0] != x.shape[axis] for i, t in enumerate(types)):
        return Refusal("the number of scales is not known to be the axis's size", {"scale": node.operands[1].type, "x": x})
    return _formula(node, e, types, node.results[0].tensor, reshape)


def _blocked(node: Node, e: Expr, axis: int, block: int) -> Formula | Refusal:
    x = node.operands[0].tensor
    refusal = refuse_layouts(node)
    if refusal is None and (not isinstance(x.shape[axis], int) or x.shape[axis] % block):
        refusal = Refusal("blocks that do not divide the axis", {"block_size": block, "x": x})
    if refusal is not None:
        return refusal

    def reshape(i: int, shape: Sequence) -> tuple:
        if _is_one(shape) and i:
            return ()
        split = (shape[axis] // block, block) if i == 0 else (shape[axis], 1)
        return (*shape[:axis], *split, *shape[axis + 1 :])

    types = [v.tensor.with_(shape=reshape(i, v.tensor.shape)) for i, v in enumerate(node.operands) if v is not None]
    ranks = {len(t.shape) for t in types if t.shape}
    if len(ranks) != 1 or any(t.shape and t.shape[axis] != types[0].shape[axis] for t in types):
        return Refusal("the number of scales is not known to be that of blocks", {"scale": node.operands[1].type, "x": x})
    y = node.results[0].tensor
    return _formula(node, e, types, y.with_(shape=reshape(0, y.shape)), reshape)
