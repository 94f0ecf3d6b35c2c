"""How one input is padded: on the host, or by copies in a device's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .cuda import Cuda, CudaArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Growth:
    """An input of a `shape` is made one of the shape `to`, what is given standing first. Then each of the `fills`, an axis and
    whether the caller's `value` stands there, is filled behind that: else by copies of the last row, fillings of before included.
    """

    shape: Shape
    to: Shape
    fills: Sequence[tuple[int, bool]]
    value: Any

    def on_host(self, x: np.ndarray) -> np.ndarray:
        out = np.empty(self.to, x.dtype)
        out[tuple([slice(n) for n in self.shape])] = x
        for axis, valued in self.fills:
            n, before = self.shape[axis], (slice(None),) * axis
            out[(*before, slice(n, None))] = self.value if valued else out[(*before, slice(n - 1, n))]
        return out

    def on_device(self, x: CudaArray, device: Cuda) -> CudaArray:
        """The same on a device's stream: a copy for each block that stays together, few where the batch grows alone."""
        item, copy = x.dtype.itemsize, device.driver.copy
        out = device.empty(math.prod(self.to) * item).view(x.dtype).reshape(self.to)
        if not out.nbytes:
            return out
        last = max(axis for axis, _ in self.fills)
        block = math.prod(self.shape[last:]) * item
        for i, index in enumerate(np.ndindex(*self.shape[:last])):
            at = int(np.ravel_multi_index(index, self.to[:last])) if last else 0
            copy(out.address + at * math.prod(self.to[last:]) * item, x.address + i * block, block)
        for axis, valued in self.fills:
            n, row = self.shape[axis], math.prod(self.to[axis + 1 :]) * item
            added = self.to[axis] - n
            value = device.bring([np.full(added * row // item, self.value, x.dtype)])[0] if valued else None
            for i in range(math.prod(self.to[:axis])):
                at = out.address + (i * self.to[axis] + n) * row
                if value is not None:
                    copy(at, value.address, value.nbytes)
                else:
                    _repeat(device, at, row, added)
        return out


def _repeat(device: Cuda, at: int, row: int, count: int) -> None:
    """Copies of the row that stands before an address, so many: each time of all that are there."""
    made = 0
    while made < count:
        now = min(made + 1, count - made)
        device.driver.copy(at + made * row, at - row, now * row)
        made += now
