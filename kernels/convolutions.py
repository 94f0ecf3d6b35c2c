"""Convolutions, as far as all targets see them alike: sizes, weights as matrices, what they do to their own sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.core import Node
from ..ir.layout import channels_last
from ..ir.ops.conv_other import _transpose_windows
from ..ir.ops.windows import make_windows
from ..ir.types import FLOATS
from .epilogue import Builder, Site
from .spec import Dims, Refusal

MOST_PHASES = 1 << 16  # of a transposed convolution: each is a product of its own, however few results it has


@dataclass(frozen=True)
class Geometry:
    """A convolution's sizes, with three spatial axes (missing ones have size 1)."""

    n: int
    channels: int
    inputs: Dims  # spatial sizes
    outputs: Dims
    kernel: Dims
    strides: Dims
    dilations: Dims
    begin: Dims
    group: int
    out_channels: int

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def per_group(self) -> int:
        return self.channels // self.group

    def is_pointwise(self) -> bool:
        """Whether every output pixel sees the one input pixel at its own place."""
        return self.taps == 1 and set(self.strides) == {1} and not any(self.begin) and self.inputs == self.outputs

    def flat(self, with_batch: bool) -> Geometry:
        """A pointwise convolution over one spatial axis (with the batch in it, which channels-last memory allows)."""
        if not self.is_pointwise():
            return self
        size = math.prod(self.inputs) * (self.n if with_batch else 1)
        return Geometry(1 if with_batch else self.n, self.channels, (1, 1, size), (1, 1, size), self.kernel, self.strides,
                        self.dilations,
                        self.begin, self.group, self.out_channels)  # fmt: skip

    def ints(self) -> list[int]:
        """The integers of `GEOMETRY`, in its order."""
        return [self.n, self.channels, self.per_group, self.out_channels, *self.inputs, *self.outputs, *self.kernel, *self.strides,
                *self.dilations, *self.begin]  # fmt: skip


GEOMETRY = ("images", "channels", "per_group", "out_channels", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW", "sd", "sh",
            "sw", "dd", "dh", "dw",
            "pd", "ph", "pw")  # fmt: skip


def _three(values: Sequence[int], fill: int) -> Dims:
    return (fill,) * (3 - len(values)) + tuple(values)


def geometry(anchor: Node, x: Dims, w: Dims) -> Geometry:
    """The sizes of a conv or conv_transpose node on operands of these logical shapes."""
    names = ("auto_pad", "pads", "strides", "dilations")
    attrs, group = {name: anchor.attr(name) for name in names}, anchor.attr("group")
    if anchor.op.name != "conv_transpose":
        win = make_windows(x[2:], w[2:], **attrs)
        out, channels = win.out, w[0]
    else:
        win, out = _transpose_windows(x[2:], w[2:], *(anchor.attr(n) for n in (*names, "output_padding", "output_shape")))
        channels = w[1] * group
    parts = [(x[2:], 1), (out, 1), (win.kernel, 1), (win.strides, 1), (win.dilations, 1), (win.begin, 0)]
    return Geometry(x[0], x[1], *(_three(v, fill) for v, fill in parts), group, channels)


def grouped_weight(w: np.ndarray, group: int, transposed: bool) -> np.ndarray:
    """A weight as matrices [group, taps * inputs of a group, outputs of a group] of its own type."""
    taps = math.prod(w.shape[2:])
    if transposed:  # [C, M/group, ...]
        per, out = w.shape[0] // group, w.shape[1]
        return w.reshape(group, per, out, taps).transpose(0, 3, 1, 2).reshape(group, taps * per, out)
    per, out = w.shape[1], w.shape[0] // group
    return w.reshape(group, out, per, taps).transpose(0, 3, 2, 1).reshape(group, taps * per, out)


def refuse_conv(site: Site) -> Refusal | None:
    """Why no kernel serves a convolution: it takes one to three spatial axes, floats, each of input and result row-major or
    channels-last, weights row-major."""
    x = site.operand(0).tensor
    if x.dtype not in FLOATS:
        return Refusal(f"{site.anchor.op.name} of {x.dtype} has no kernel", {"expected": "f32, f64, f16, bf16"})
    if site.anchor.op.name == "conv_transpose" and math.prod(site.anchor.attr("strides")) > MOST_PHASES:
        return Refusal("strides too large to be cut into phases", {"strides": list(site.anchor.attr("strides"))})
    return refuse_places(site, *site.index[:2])


def refuse_places(site: Site, x: int, w: int) -> Refusal | None:
    """Why no kernel serves a convolution of these operands of the site's node, by their ranks and how they lie."""
    operands = site.outer.operands
    data, weight = operands[x], operands[w]
    if data.tensor.rank not in (3, 4, 5):
        return Refusal("one to three spatial axes are served", {"rank": data.tensor.rank})
    allowed = (None, channels_last(data.tensor.rank))
    for v in (data, weight, site.outer.results[0]):
        if v.tensor.layout not in allowed[: 1 if v is weight else 2]:
            return Refusal(f"%{v.name} has a layout that is neither row-major nor channels-last", {"type": v.type})
    for i, v in enumerate(operands):
        small = v is not None and i not in (x, w) and v.tensor.layout is not None and v.tensor.shape != site.result.shape
        if small and sum(d != 1 for d in v.tensor.shape) > 1:
            return Refusal(f"%{v.name} has a layout of its own", {"type": v.type})
    same = weight.tensor.rank == data.tensor.rank
    return None if same else Refusal("ranks of input and weight differ", {"x": data.tensor, "w": weight.tensor})


def biased_sums(site: Site, b: Builder) -> int:
    """What a convolution does to its sums: it adds its bias."""
    acc = b.add("acc")
    return acc if site.operand(2) is None else b.add("add", acc, b.leaf("channel", site.index[2]))
