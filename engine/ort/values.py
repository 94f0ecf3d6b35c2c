"""OrtValue, and how onnxruntime writes types."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.errors import InputError
from ...ir.types import ONNX_DTYPES, STR, DType, MapType, OptionalType, SequenceType, TensorType, Type, dtype_of
from ..foreign import as_dlpack, as_numpy
from .devices import CPU_MEMORY, OrtMemoryInfo, need_cpu
from .errors import NotOffered

_NAMES = {
    "f64": "double", "f32": "float", "f16": "float16", "bf16": "bfloat16", "str": "string", "bool": "bool", "c64": "complex64",
    "c128": "complex128", "f4e2m1": "float4e2m1", "f6e2m3": "float6e2m3", "f6e3m2": "float6e3m2",
}  # fmt: skip
_NUMBERS = {d: n for n, d in ONNX_DTYPES.items()}


def element_name(d: DType) -> str:
    """`float` for f32, `uint8` for u8, `float8e4m3fn` for f8e4m3fn."""
    if d.kind in ("int", "uint"):
        return f"{d.kind}{d.bits}"
    return _NAMES.get(d.name) or d.name.replace("f8", "float8")


def type_name(t: Type) -> str:
    """`tensor(float)`, `seq(map(int64,tensor(float)))`."""
    if isinstance(t, TensorType):
        return f"tensor({element_name(t.dtype)})"
    if isinstance(t, SequenceType):
        return f"seq({type_name(t.elem)})"
    if isinstance(t, OptionalType):
        return f"optional({type_name(t.elem)})"
    assert isinstance(t, MapType)
    return f"map({element_name(t.key)},{type_name(t.value)})"


def element_dtype(element_type: Any) -> DType:
    """The element type that a numpy type or the number of an ONNX one names."""
    if isinstance(element_type, int) and not isinstance(element_type, bool):
        if element_type not in ONNX_DTYPES:
            raise ValueError(f"there is no ONNX element type {element_type}; expected one of {sorted(ONNX_DTYPES)}")
        return ONNX_DTYPES[element_type]
    return dtype_of(np.dtype(element_type))


def array_at(address: int, shape: Sequence[int], d: DType) -> np.ndarray:
    """The caller's memory at `address` as an array, which must outlive it."""
    n = int(np.prod(shape, dtype=np.int64)) * d.itemsize
    raw: Any = (ctypes.c_byte * n).from_address(address) if n else b""
    return np.frombuffer(raw, dtype=d.np).reshape(tuple(shape))


class OrtValue:
    """A value in the CPU's memory: a tensor that shares memory with the array it was made from, or a list of them."""

    def __init__(self, value: Any):
        self._value = value

    # ---- making them

    @classmethod
    def ortvalue_from_numpy(
        cls, numpy_obj: np.ndarray, /, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1
    ) -> OrtValue:
        """Over the array's own memory where it is contiguous. Raises RuntimeError for what is no array of numbers."""
        need_cpu(device_type, device_id, vendor_id)
        if not isinstance(numpy_obj, np.ndarray) or numpy_obj.dtype.kind in "OUST":
            raise RuntimeError(
                "an OrtValue is made from a numpy array of numbers; hand texts and lists to InferenceSession.run as they are"
            )
        dtype_of(numpy_obj)
        return cls(np.require(numpy_obj, requirements=["C", "A"]))

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(cls, data: np.ndarray, /, onnx_element_type: int) -> OrtValue:
        """The array's bytes as elements of another type of the same width."""
        d = element_dtype(int(onnx_element_type))
        if d is STR or d.itemsize != data.itemsize:
            raise RuntimeError(f"elements of {data.itemsize} bytes cannot be seen as {d}, which has {d.itemsize}")
        return cls(np.require(data, requirements=["C", "A"]).view(d.np))

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0,
                                     vendor_id: int = -1, memory_info: OrtMemoryInfo | None = None) -> OrtValue:  # fmt: skip
        """A tensor of zeros."""
        need_cpu(device_type, device_id, vendor_id)
        d = element_dtype(element_type)
        if d is STR:
            raise RuntimeError("an OrtValue of texts cannot be made; hand them to InferenceSession.run as they are")
        return cls(np.zeros(tuple(shape), d.np))

    @classmethod
    def from_dlpack(cls, data: Any, /) -> OrtValue:
        """Over the memory of an object that has `__dlpack__`, in the CPU's memory."""
        if not hasattr(data, "__dlpack__"):
            raise TypeError(f"a {type(data).__name__} has no __dlpack__; hand in the array or tensor, not its capsule")
        try:
            array = as_numpy(data, "the tensor")
        except InputError as e:
            raise NotOffered(str(e)) from e
        assert array is not None  # it has __dlpack__
        return cls(np.require(array, requirements=["C", "A"]))

    @classmethod
    def ort_value_from_sparse_tensor(cls, sparse_tensor: Any) -> OrtValue:
        raise NotOffered("sparse tensors are not offered as inputs; make them dense")

    # ---- looking at them

    def numpy(self) -> np.ndarray:
        """The tensor, in the same memory."""
        return self._tensor()

    def _tensor(self) -> np.ndarray:
        if not isinstance(self._value, np.ndarray):
            raise RuntimeError(f"this OrtValue holds a {type(self._value).__name__}, no tensor")
        return self._value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._tensor(), dtype=dtype, copy=copy)

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return as_dlpack(self._tensor()).__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._tensor().__dlpack_device__()  # type: ignore[return-value]

    def as_sparse_tensor(self) -> Any:
        raise NotOffered("sparse tensors are not offered; this value is dense: use numpy()")

    def data_ptr(self) -> int:
        return self._tensor().ctypes.data

    def device_name(self) -> str:
        return CPU_MEMORY.name.lower()

    def shape(self) -> list[int]:
        return list(self._tensor().shape)

    def data_type(self) -> str:
        """`tensor(float)`, or `seq(tensor(float))` for a list."""
        if isinstance(self._value, list):
            return f"seq({OrtValue(self._value[0]).data_type() if self._value else 'tensor(float)'})"
        return f"tensor({element_name(dtype_of(self._tensor()))})"

    def element_type(self) -> int:
        """The number of the element type in ONNX."""
        return _NUMBERS[dtype_of(self._tensor())]

    def tensor_size_in_bytes(self) -> int:
        return self._tensor().nbytes

    def has_value(self) -> bool:
        return self._value is not None

    def is_tensor(self) -> bool:
        return isinstance(self._value, np.ndarray)

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return isinstance(self._value, list)

    def update_inplace(self, data: np.ndarray | OrtValue) -> None:
        """Copies `data`, of the same shape and element type, into this tensor's memory."""
        if isinstance(data, OrtValue):
            data = data.numpy()
        if not isinstance(data, np.ndarray):
            raise TypeError("data must be a numpy.ndarray or an OrtValue.")
        mine = self._tensor()
        if data.dtype != mine.dtype or data.shape != mine.shape:
            raise RuntimeError(
                f"{data.dtype}{list(data.shape)} cannot be copied into {mine.dtype}{list(mine.shape)}; expected the same"
            )
        if not mine.flags.writeable:
            raise RuntimeError("this OrtValue was made from a read-only array, which cannot be updated")
        np.copyto(mine, data)


class OrtValueVector(list):
    """A list of OrtValues, under the name that onnxruntime's has."""

    def push_back(self, value: OrtValue) -> None:
        self.append(value)


def copy_tensors(src: Sequence[OrtValue], dst: Sequence[OrtValue], stream: Any = None) -> None:
    """Copies each tensor of `src` into that of `dst` at its place."""
    if len(src) != len(dst):
        raise ValueError(f"{len(src)} tensors to copy into {len(dst)}")
    for a, b in zip(src, dst):
        b.update_inplace(a)
