"""Devices and memory, of which graphmill knows the CPU's."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import Any

from .enums import (
    OrtAllocatorType,
    OrtDeviceMemoryType,
    OrtDeviceVendorId,
    OrtHardwareDeviceType,
    OrtMemoryInfoDeviceType,
    OrtMemType,
)
from .errors import NotOffered

CPU_PROVIDER = "CPUExecutionProvider"
_KINDS = {"cpu": 0, "cuda": 1, "gpu": 1, "fpga": 2, "npu": 3, "cann": 3, "dml": 4, "webgpu": 5}


class OrtDevice:
    """A device by kind and number. Others than the CPU can be named, and refuse to hold anything."""

    def __init__(self, kind: int, device_id: int = 0, vendor: int = 0):
        self._kind, self._id, self._vendor = kind, device_id, vendor

    @staticmethod
    def make(ort_device_name: str, device_id: int, vendor_id: int | OrtDeviceVendorId = -1) -> OrtDevice:
        """The device; raises Exception for a name that there is not, as onnxruntime does."""
        if ort_device_name.lower() not in _KINDS:
            raise Exception("Unsupported device type: " + ort_device_name)
        return OrtDevice(_KINDS[ort_device_name.lower()], device_id, max(0, int(vendor_id)))

    def device_id(self) -> int:
        return self._id

    def device_type(self) -> int:
        return self._kind

    def device_vendor_id(self) -> int:
        return self._vendor

    def device_mem_type(self) -> int:
        return int(OrtDeviceMemoryType.DEFAULT)


def need_cpu(device_type: str, device_id: int = 0, vendor_id: int = -1) -> None:
    """Raises NotImplemented for any device but the CPU."""
    if OrtDevice.make(device_type, device_id, vendor_id).device_type() != 0:
        raise NotOffered(f"memory on {device_type!r} cannot be allocated: graphmill runs on the CPU; use device_type 'cpu'")


@dataclass(frozen=True)
class OrtMemoryInfo:
    """Where memory lies."""

    name: str
    allocator_type: OrtAllocatorType
    device_id: int = 0
    mem_type: OrtMemType = OrtMemType.DEFAULT
    device_mem_type: OrtDeviceMemoryType = OrtDeviceMemoryType.DEFAULT
    device_vendor_id: int = 0

    @staticmethod
    def create_v2(name: str, device_type: OrtMemoryInfoDeviceType, vendor_id: int, device_id: int,
                  device_mem_type: OrtDeviceMemoryType, alignment: int,
                  allocator_type: OrtAllocatorType) -> OrtMemoryInfo:  # fmt: skip
        return OrtMemoryInfo(name, allocator_type, device_id, OrtMemType.DEFAULT, device_mem_type, vendor_id)


CPU_MEMORY = OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR)


class OrtArenaCfg:
    """How an arena should grow; kept, and of no effect: graphmill plans its arenas."""

    def __init__(self, *args: Any):
        given = (
            dict(args[0])
            if len(args) == 1
            else dict(zip(("max_mem", "arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"), args))
        )
        self.max_mem = given.get("max_mem", 0)
        self.arena_extend_strategy = given.get("arena_extend_strategy", -1)
        self.initial_chunk_size_bytes = given.get("initial_chunk_size_bytes", -1)
        self.max_dead_bytes_per_chunk = given.get("max_dead_bytes_per_chunk", -1)
        self.initial_growth_chunk_size_bytes = given.get("initial_growth_chunk_size_bytes", -1)
        self.max_power_of_two_extend_bytes = given.get("max_power_of_two_extend_bytes", -1)


@dataclass(frozen=True)
class OrtHardwareDevice:
    """This machine's CPU."""

    type: OrtHardwareDeviceType = OrtHardwareDeviceType.CPU
    vendor: str = field(default_factory=platform.processor)
    vendor_id: int = 0
    device_id: int = 0
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OrtEpDevice:
    """The one device that there is, with the name of the provider that stands for it."""

    ep_name: str = CPU_PROVIDER
    ep_vendor: str = "graphmill"
    ep_metadata: dict[str, str] = field(default_factory=dict)
    ep_options: dict[str, str] = field(default_factory=dict)
    device: OrtHardwareDevice = field(default_factory=OrtHardwareDevice)

    def memory_info(self, kind: Any = None) -> OrtMemoryInfo:
        return CPU_MEMORY

    def create_sync_stream(self, options: Any = None) -> Any:
        raise NotOffered("the CPU has no streams; leave the stream out")


def get_ep_devices() -> list[OrtEpDevice]:
    """The CPU."""
    return [OrtEpDevice()]
