"""Memory of one run at a time: the arena, and bound segments resolved for its address."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from .device import CPU, Device, Resolved
from .memory import MOST_BOUND

if TYPE_CHECKING:
    from .bound import Bound


class Workspace:
    """The memory of one run at a time on a device."""

    def __init__(self, device: Device = CPU) -> None:
        self.device = device
        self.arena: Any = device.empty(0)
        self._resolved: OrderedDict[Bound, Resolved] = OrderedDict()

    def drop(self) -> None:
        """Gives its memory back."""
        self._resolved.clear()
        self.arena = self.device.empty(0)

    def resolve(self, bound: Bound) -> Any:
        """The parameters and the table of a segment, with absolute addresses (a `Resolved` of the device's)."""
        found = self._resolved.get(bound)
        if found is None:
            if self.arena.nbytes < bound.arena:
                self._resolved.clear()
                size = max(bound.arena, self.arena.nbytes * 5 // 4)  # a cache that grows step by step needs no new arena each time
                self.arena = self.device.empty(size)
            found = self._resolved[bound] = self.device.resolve(bound, self.arena)
            if len(self._resolved) > MOST_BOUND:
                self._resolved.popitem(last=False)
        return found
