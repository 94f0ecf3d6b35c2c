"""Pooling, as far as all targets see it alike: what is folded, over which windows, in which layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.core import Node
from ..ir.layout import channels_last
from ..ir.ops.windows import Windows, make_windows
from ..ir.types import FLOATS, I8, U8
from .spec import Refusal

POOLS = ("max_pool", "average_pool", "lp_pool", "global_max_pool", "global_average_pool", "global_lp_pool")


@dataclass(frozen=True)
class Fold:
    """How a window becomes a number, as expressions in the type CT: the first value, what is folded for an element `v`, and the end
    over `n` elements; whether values are added, or the greatest is taken."""

    start: str
    value: str
    end: str
    adds: bool = True

    @property
    def step(self) -> str:
        """One more element."""
        return f"acc + {self.value}" if self.adds else f"maximum(acc, {self.value})"

    @property
    def join(self) -> str:
        """Another part's value `u`."""
        return "acc + u" if self.adds else "maximum(acc, u)"


def fold_of(node: Node) -> Fold:
    """What a pool does with its elements."""
    kind, dtype = node.op.name.removeprefix("global_"), node.operands[0].tensor.dtype  # type: ignore[union-attr]
    if kind == "max_pool":
        lowest = "-inf" if dtype.is_float else str({I8: -128, U8: 0}[dtype])
        return Fold(f"CT({lowest})", "v", "acc", adds=False)
    if kind == "average_pool":
        return Fold("CT(0)", "v", "acc / CT(n)")
    p = node.attr("p")
    power = {1: "absolute(v)", 2: "v * v"}.get(p, f"pow_(absolute(v), CT({p}))")
    root = {1: "acc", 2: "sqrt(acc)"}.get(p, f"pow_(acc, CT({1 / p!r}))")
    return Fold("CT(0)", power, root)


def refuse_pool(node: Node) -> Refusal | None:
    """Up to three spatial axes; indices of maxima for row-major operands only."""
    x, y = node.operands[0].tensor, node.results[0].tensor  # type: ignore[union-attr]
    rank = x.rank or 0
    if rank > 5:
        return Refusal("at most three spatial axes are served", {"rank": rank})
    if any(t.layout not in (None, channels_last(rank)) for t in (x, y)) or (y.layout is None) != (x.layout is None):
        return Refusal("input and result must both be row-major or both channels-last", {"x": x, "y": y})
    if x.dtype not in FLOATS | {I8, U8}:
        return Refusal(f"{node.op.name} of {x.dtype} has no kernel", {"expected": "f32, f64, f16, bf16, i8, u8"})
    if len(node.results) > 1 and x.layout is not None:
        return Refusal("indices of maxima are found in row-major operands only", {"x": x})
    return None


def windows_over(node: Node, spatial: Sequence[int]) -> tuple[Windows, list[int]]:
    """The windows of a pool; and, for three axes, the sizes of operand, result and window, strides, dilations, how much is added
    before and behind."""
    attrs = {name: node.attr(name) for name in ("auto_pad", "pads", "strides", "dilations")}
    win = make_windows(spatial, node.attr("kernel_shape"), ceil_mode=bool(node.attr("ceil_mode")), **attrs)
    fields = [(spatial, 1), (win.out, 1), (win.kernel, 1), (win.strides, 1), (win.dilations, 1), (win.begin, 0), (win.end, 0)]
    return win, [v for values, fill in fields for v in (fill,) * (3 - len(spatial)) + tuple(values)]
