"""Arrays of other libraries as numpy's, in the same memory: DLPack, the array interface, the buffer protocol.

numpy knows no bfloat16 and no float8 in DLPack. Of such a tensor it is handed the capsule with the element type exchanged for an
integer of the same width (the DLTensor of DLPack's header says where that stands), and sees the integers as ml_dtypes' type; out
again the other way round. So numpy alone keeps track of who owns the memory.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any, NamedTuple

import numpy as np

from ..ir.errors import InputError
from ..ir.types import DTYPES, dtype_of

_READABLE = (1, 3, 11)  # DLDeviceType: the CPU, and host memory pinned for CUDA or ROCm
_DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 13: "managed by CUDA", 14: "oneAPI", 15: "WebGPU"}
# DLDataTypeCode of the types that numpy refuses.
_CODES = {4: "bf16", 10: "f8e4m3fn", 11: "f8e4m3fnuz", 12: "f8e5m2", 13: "f8e5m2fnuz", 14: "f8e8m0"}
_UINT = 1
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b", 5: "c"}  # DLDataTypeCode of numpy's own types
_TENSOR = struct.Struct("QiiiBBHQQQ")  # DLTensor: data, device (2), ndim, type (code, bits, lanes), shape, strides, byte_offset
_TENSOR_AT = {b"dltensor": 0, b"dltensor_versioned": 32}  # where the DLTensor stands in what a capsule of this name holds

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype, _name.argtypes = ctypes.c_char_p, (ctypes.py_object,)


def as_numpy(x: Any, what: str) -> np.ndarray | None:
    """The array that shares memory with `x`; None where `x` offers no memory (a list, a number). Raises InputError, in which
    `what` names the value, for memory that is not the CPU's and for what its owner does not export."""
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
            raise InputError(f"{what} has masked elements; say with .filled(value) what they should count as")
        return np.asarray(x)
    if hasattr(x, "__dlpack__"):
        return _from_dlpack(x, what)
    if isinstance(x, (bytes, bytearray)):
        return np.frombuffer(x, np.uint8)
    if hasattr(x, "__array__") or hasattr(x, "__array_interface__") or isinstance(x, memoryview) or _has_buffer(x):
        try:
            return np.asarray(x)
        except (TypeError, ValueError, BufferError, RuntimeError) as e:
            raise InputError(f"{what} is a {type(x).__name__} that numpy cannot read: {e}") from e
    return None


def _has_buffer(x: Any) -> bool:
    if isinstance(x, (str, list, tuple, int, float)):
        return False
    try:
        memoryview(x).release()
    except (TypeError, ValueError, BufferError):  # none, or none at present
        return False
    return True


def _from_dlpack(x: Any, what: str) -> np.ndarray:
    try:
        kind, number = x.__dlpack_device__()
        if kind not in _READABLE:
            place = _DEVICES.get(kind, f"of DLPack's kind {int(kind)}")
            raise InputError(f"{what} lies in memory of a device ({place}, {number}), expected the CPU's; copy it there (.cpu())")
        seen = _Exchanged(x)
        array = np.from_dlpack(seen)
        return array if seen.dtype is None else array.view(seen.dtype)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as e:
        raise InputError(f"{what} is a {type(x).__name__} that cannot be read by DLPack: {e}") from e


class _Exchanged:
    """A tensor whose capsules tell of integers where they would of a type that numpy refuses, which is `dtype` then."""

    def __init__(self, x: Any):
        self._capsule, self._device = _capsule(x), x.__dlpack_device__()
        code = _data_type(self._capsule)
        name = _CODES.get(code[0])
        self.dtype = DTYPES[name].np if name is not None and code[2:] == [1, 0] else None  # one lane
        if self.dtype is not None:
            code[0] = _UINT

    def __dlpack__(self, **asked: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device  # type: ignore[no-any-return]


def _capsule(x: Any) -> Any:
    try:
        return x.__dlpack__(max_version=(1, 0))
    except TypeError:  # older than version 1
        return x.__dlpack__()


def _tensor_at(capsule: Any) -> int:
    """Where the DLTensor of a capsule stands."""
    name = _name(capsule)
    if name not in _TENSOR_AT:
        raise ValueError(f"the capsule is named {name!r}, expected one of {sorted(_TENSOR_AT)}")
    return _pointer(capsule, name) + _TENSOR_AT[name]  # type: ignore[no-any-return]


def _data_type(capsule: Any) -> Any:
    """The DLDataType of a capsule: bytes of its code, its bits, and its lanes (two)."""
    return (ctypes.c_uint8 * 4).from_address(_tensor_at(capsule) + 20)


class Pointed(NamedTuple):
    """A tensor in memory of a device, which `owner` keeps alive. Strides are in bytes, None where it is C-contiguous."""

    owner: Any
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype
    writeable: bool = True

    @property
    def contiguous(self) -> bool:
        if self.strides is None or 0 in self.shape:
            return True
        step = self.dtype.itemsize
        for n, s in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if n != 1 and s != step:
                return False
            step *= n
        return True


def pointed(x: Any, stream: int, what: str) -> Pointed:
    """A tensor of another library in memory of a device, by DLPack: what the `stream` is asked for from now on comes after what
    makes the tensor (-1: that is so already). Raises InputError, in which `what` names it."""
    try:
        try:
            capsule = x.__dlpack__(stream=stream, max_version=(1, 0))
        except TypeError:  # older than version 1
            capsule = x.__dlpack__(stream=stream)
        at = _tensor_at(capsule)
        data, _, _, ndim, code, bits, lanes, shape, strides, offset = _TENSOR.unpack(ctypes.string_at(at, _TENSOR.size))
        dtype = _dtype(code, bits, lanes)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as e:
        raise InputError(f"{what} is a {type(x).__name__} that cannot be read by DLPack: {e}") from e
    numbers = _numbers(ndim)
    sizes = numbers.unpack(ctypes.string_at(shape, numbers.size)) if ndim else ()
    steps = None
    if strides and ndim:
        steps = tuple([n * dtype.itemsize for n in numbers.unpack(ctypes.string_at(strides, numbers.size))])
    flags = ctypes.c_uint64.from_address(at - 8).value if _name(capsule) == b"dltensor_versioned" else 0
    return Pointed(capsule, data + offset, sizes, steps, dtype, writeable=not flags & 1)


@functools.cache
def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"{count}q")


@functools.cache
def _dtype(code: int, bits: int, lanes: int) -> np.dtype:
    name = _CODES.get(code)
    dtype = DTYPES[name].np if name is not None else np.dtype(f"{_KINDS[code]}{bits // 8}")
    if lanes != 1 or bits != 8 * dtype.itemsize:
        raise ValueError(f"elements of {bits} bits, DLPack's type {code}")
    return dtype


class _Placed:
    """Memory of a device as numpy is told of it, which never looks there."""

    def __init__(self, owner: Any, address: int, shape: tuple[int, ...], dtype: np.dtype):
        self.owner = owner
        self.__array_interface__ = {"shape": shape, "typestr": dtype.str, "data": (address, False), "version": 3}


def capsule_of(x: Pointed, device: tuple[int, int], **asked: Any) -> Any:
    """A capsule of DLPack's for a C-contiguous tensor in memory of a device. numpy makes it, as if it were memory of the host."""
    plain = x.dtype if x.dtype.kind in _KINDS.values() else np.dtype(f"u{x.dtype.itemsize}")
    array = np.asarray(_Placed(x.owner, x.address, x.shape, plain)).view(x.dtype)
    capsule = Exported(array).__dlpack__(**asked)
    place = (ctypes.c_int32 * 2).from_address(_tensor_at(capsule) + 8)
    place[0], place[1] = device
    return capsule


class Exported:
    """An array under DLPack's protocol; see `as_dlpack`."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def __dlpack__(self, **asked: Any) -> Any:
        name = dtype_of(self._array.dtype).name
        code = next((c for c, n in _CODES.items() if n == name), None)
        if code is None:
            return self._array.__dlpack__(**asked)
        capsule = self._array.view(f"u{self._array.itemsize}").__dlpack__(**asked)
        _data_type(capsule)[0] = code
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()  # type: ignore[return-value]


def as_dlpack(array: np.ndarray) -> Exported:
    """The array as a producer of DLPack capsules, in the same memory: `torch.from_dlpack(gm.as_dlpack(y))`.

    Needed for bfloat16 and float8, which numpy's own `__dlpack__` refuses; other arrays are exported as numpy exports them.
    """
    return Exported(array)
