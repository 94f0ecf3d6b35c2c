"""The caller's arrays in a device's memory as the place of outputs (`Executable.run(..., out=)`), beside those of the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir.core import Value
from ..ir.errors import InputError
from .device import Device, DeviceArray, fetch
from .outputs import Outputs, check_type


class Placed:
    """The arrays of one run. All is computed first (kernels write to none of these: `direct`), so that an array which shares memory
    with an input is right too."""

    direct: Mapping[str, Any] = {}

    def __init__(self, given: Mapping[str, Any], there: Mapping[str, DeviceArray], declared: Mapping[str, Value], device: Device,
                 on_device: bool):  # fmt: skip
        """`there` are those of `given` that lie in the device's memory; with `on_device` all other outputs stay there, too."""
        self._given, self._there, self._device, self._on_device = given, there, device, on_device
        self._host = Outputs({name: x for name, x in given.items() if name not in there}, declared, ())
        for name, a in there.items():
            check_type(name, a, declared[name])
        _keep_apart(list(there.items()))

    @property
    def arrays(self) -> Sequence[DeviceArray]:
        return list(self._there.values())

    def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of a run that left them on the device: what the caller gave, filled, in the place of what was computed."""
        for name, a in self._there.items():
            if a.shape != results[name].shape:
                raise InputError(f"out: the array of {name} has shape {list(a.shape)}, expected {list(results[name].shape)}")
        for name, a in self._there.items():
            self._device.write(a, results[name])
        stay = [name for name in results if self._on_device and name not in self._given]
        host = self._host.finish({name: fetch(x) for name, x in results.items() if name not in stay and name not in self._there})
        return {name: host[name] if name in host else results[name] if name in stay else self._given[name] for name in results}


def _keep_apart(arrays: Sequence[tuple[str, Any]]) -> None:
    for i, (name, a) in enumerate(arrays):
        for other, b in arrays[:i]:
            if a.address < b.address + b.nbytes and b.address < a.address + a.nbytes:
                raise InputError(f"out: the arrays of {other} and {name} share memory; give each output memory of its own")
