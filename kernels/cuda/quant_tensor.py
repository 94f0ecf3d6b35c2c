"""Which products of 8-bit integers the tensor cores compute, and how weights are packed for them.

    sum (a - za)(b - zb) = sum a (b - zb) - za sum (b - zb)

so a is multiplied as it lies, b less its zero points where these differences are bytes, and its columns' sums are known beforehand.
Other zero points of b are taken off in the end, by the sums of a's rows. Sums wrap at 32 bits like those of scalar tiles, and every
order of adding gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...ir.core import Node
from ...ir.types import I8, DType
from ..convolutions import grouped_weight
from ..epilogue import Site, site_of
from ..quantized import constant_zeros, roles_of
from ..spec import Refusal
from .tiles import BYTES, padded

GRAINS = (16, 8, 4)  # bytes that asynchronous copies bring


@dataclass(frozen=True)
class Packing:
    """How a constant weight is multiplied: less its `zeros`, as bytes that are `signed` or not; or as it is (`shifted`), where the
    differences are no bytes of one kind. As an array of bytes it is [group][column][steps of the reduction], filled up with 0 to a
    multiple of 16 steps, then the sums of all columns less their zeros, in i32, then the zeros. `grain` bytes of what it is
    multiplied with lie together."""

    zeros: np.ndarray
    signed: bool
    shifted: bool
    grain: int
    group: int

    def multiplier(self, x: DType) -> str:
        """What multiplies in mma.cuh, of an operand of such bytes."""
        words = ["true" if yes else "false" for yes in (x is I8, self.signed, self.shifted)]
        return f"{BYTES}<{', '.join(words)}>"

    def of_matrix(self, w: np.ndarray) -> np.ndarray:
        """A matrix [..., steps, columns] or a vector of steps; axes before the last two have size 1."""
        two = w.reshape(-1, 1) if w.ndim == 1 else w.reshape(w.shape[-2:])
        return self._packed(two[None])

    def of_filters(self, w: np.ndarray) -> np.ndarray:
        """Weights [output channels, channels of a group, ...]."""
        return self._packed(grouped_weight(w, self.group, False))

    def _packed(self, w: np.ndarray) -> np.ndarray:
        lines = w.transpose(0, 2, 1).reshape(w.shape[0] * w.shape[2], w.shape[1])
        zeros = np.broadcast_to(self.zeros, len(lines)).astype(np.int16)
        less = lines - zeros[:, None]
        sums = less.sum(-1, dtype=np.int64).astype(np.int32)
        numbers = np.zeros((len(lines), padded(lines.shape[1])), np.int8 if self.signed else np.uint8)
        numbers[:, : lines.shape[1]] = lines if self.shifted else less
        return np.concatenate([part.reshape(-1).view(np.uint8) for part in (numbers, sums, zeros.astype(np.int32))])


def packing_of(site: Site, roles: Mapping[str, int]) -> Packing | Refusal:
    """How the tensor cores multiply a product or convolution of bytes; or why scalar tiles do."""
    node, conv = site.outer, "conv" in site.anchor.op.name
    w = node.operands[roles["w"]]
    shape = w.tensor.shape
    if not w.is_const:
        return Refusal("the weights are no constant")
    if not conv and any(d != 1 for d in shape[:-2]):
        return Refusal("each entry of the batch has weights of its own", {"weights": shape})
    columns = shape[0] if conv else math.prod(shape[-1:]) if len(shape) > 1 else 1
    zeros = constant_zeros(node, dict(roles), columns)
    if zeros is None:
        return Refusal("the weights' zero points are not known")
    line = shape[1] if conv else shape[-2] if len(shape) > 1 else shape[0]
    grain = grain_of(line)
    if not grain:
        return Refusal(f"{line} {'channels of a group' if conv else 'steps of the reduction'} are no multiple of {GRAINS[-1]}")
    signed = _signed(w.array, zeros, conv)
    kind = w.tensor.dtype is I8 if signed is None else signed
    return Packing(zeros, kind, signed is None, grain, site.anchor.attr("group") if conv else 1)


def grain_of(line: int) -> int:
    """The most bytes that lie together in lines of that length, 0 where they are too few to be copied."""
    return next((grain for grain in GRAINS if line % grain == 0), 0)


def takes_channels_last(node: Node) -> bool:
    """Whether the tensor cores compute a convolution of bytes whose input has its channels last."""
    if any(v is not None and v.tensor.shape is None for v in node.operands):
        return False
    site = site_of(node)
    roles = site if isinstance(site, Refusal) else roles_of(site, channels_last=True)
    return isinstance(roles, dict) and isinstance(packing_of(site, roles), Packing)  # type: ignore[arg-type]


def is_best_channels_last(node: Node) -> bool:
    """Whether a convolution of bytes is computed by the tensor cores with its channels last, or makes what such a one reads."""
    rank, w = node.results[0].tensor.rank, node.operands[1 if node.op.name == "conv_integer" else 3]
    makes = w is not None and w.is_const and w.tensor.rank == rank and grain_of(w.tensor.shape[0]) > 0
    return rank in (3, 4, 5) and (makes or takes_channels_last(node))


def _signed(w: np.ndarray, zeros: np.ndarray, conv: bool) -> bool | None:
    """Whether all weights less their zero points are signed bytes (True) or unsigned ones (False); None: neither."""
    kind, (low, high) = w.dtype == np.int8, (zeros.min(), zeros.max())
    if low == high == (0 if kind else 128):
        return True
    if not w.size or (not kind and low == high == 0):
        return not w.size
    less = w.astype(np.int16) - zeros.astype(np.int16).reshape(-1, *[1] * (w.ndim - 1 if conv else 0))
    low, high = less.min(), less.max()
    return True if low >= -128 and high <= 127 else False if low >= 0 and high <= 255 else None
