"""TensorProto and SparseTensorProto to constants of the IR. Large ones are checked now and decoded when first asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...ir.core import Constant
from ...ir.errors import HostileModelError, LimitError
from ...ir.limits import Limits
from ...ir.types import BF16, BOOL, C64, C128, F16, F32, F64, I64, ONNX_DTYPES, STR, SUBBYTE, U32, U64, DType, TensorType
from .external import locate

EAGER = 4096  # tensors of at most so many bytes are decoded at once: shapes, axes, scales
_MOST_ELEMENTS = 1 << 62
PACKED = frozenset(d for d in SUBBYTE if d.bits in (2, 4))  # what int32_data holds several to a number

# Which field of TensorProto holds a type that is not in raw_data; all that are not here lie in int32_data.
_FIELDS = {F32: "float_data", C64: "float_data", F64: "double_data", C128: "double_data", I64: "int64_data",
           U64: "uint64_data", U32: "uint64_data", STR: "string_data"}  # fmt: skip
_ALL_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def read_tensor(t: onnx.TensorProto, limits: Limits, folder: Path | None = None,
                raw: memoryview | None = None) -> tuple[Constant, TensorType]:  # fmt: skip
    """The contents and the type of a tensor. `raw` is its raw_data where that was left out of `t`.

    Raises HostileModelError where dims, type and data do not fit, LimitError where it is larger than `limits.tensor_bytes`.
    """
    dtype, shape = element_type(t.data_type), checked_dims(t.dims)
    if t.HasField("segment"):
        raise HostileModelError("the tensor is stored in segments, which no version of ONNX reads; save it whole")
    count = math.prod(shape)
    _check_bytes(count * dtype.itemsize, limits.tensor_bytes, "tensor_bytes")
    decode = _decoder(t, dtype, shape, count, folder, raw)
    type_ = TensorType(dtype, shape)
    if count * dtype.itemsize <= EAGER or dtype is STR:
        return Constant(decode()), type_
    return Constant(load=decode), type_


def element_type(code: int) -> DType:
    """The DType of an ONNX element type's number. Raises HostileModelError."""
    if code not in ONNX_DTYPES:
        raise HostileModelError(f"the element type {code} is unknown; expected one of 1 to {max(ONNX_DTYPES)}")
    return ONNX_DTYPES[code]


def checked_dims(dims: Any) -> tuple[int, ...]:
    """Dims as a tuple. Raises HostileModelError for negative ones and for more elements than an address can count."""
    shape = tuple(int(d) for d in dims)
    if any(d < 0 for d in shape):
        raise HostileModelError(f"the dims {list(shape)} are negative; expected sizes >= 0")
    if math.prod(d for d in shape if d) >= _MOST_ELEMENTS or len(shape) > 64:
        raise HostileModelError(f"the dims {list(shape[:16])} overflow; expected fewer than 2^62 elements and at most 64 axes")
    return shape


def _check_bytes(nbytes: int, most: int | None, field: str) -> None:
    if most is not None and nbytes > most:
        raise LimitError(f"a tensor of {nbytes} bytes, more than the limit of {most}; raise Limits.{field} to allow it")


def _decoder(t: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], count: int, folder: Path | None,
             raw: memoryview | None) -> Callable[[], np.ndarray]:  # fmt: skip
    """A function that decodes the tensor, whose lengths were checked here."""
    filled = [f for f in _ALL_FIELDS if len(getattr(t, f))]
    nbytes = count * dtype.itemsize if dtype.bits >= 8 else -(-count * dtype.bits // 8)
    if t.data_location == onnx.TensorProto.EXTERNAL:
        if dtype is STR:
            raise HostileModelError("strings cannot be external data; expected string_data")
        found = locate(t, nbytes, folder)
        return lambda: from_raw(found.map(), dtype, shape)
    if raw is not None or t.HasField("raw_data"):
        data = memoryview(t.raw_data) if raw is None else raw
        if filled:
            raise HostileModelError(f"the data is given twice, as raw_data and as {filled[0]}; expected one")
        if dtype is STR:
            raise HostileModelError("strings cannot be raw_data; expected string_data")
        if len(data) != nbytes:
            raise HostileModelError(f"raw_data has {len(data)} bytes, expected {nbytes} for {dtype}{list(shape)}")
        return partial(from_raw, data, dtype, shape)
    field = _FIELDS.get(dtype, "int32_data")
    if any(f != field for f in filled):
        raise HostileModelError(f"the data of type {dtype} is given as {filled[0]}; expected {field}")
    values = getattr(t, field)
    expected = count * 2 if dtype.kind == "complex" else nbytes if dtype in PACKED else count
    if len(values) != expected:
        raise HostileModelError(f"{field} has {len(values)} numbers, expected {expected} for {dtype}{list(shape)}")
    array = _from_field(values, dtype, shape)
    return lambda: array


def from_raw(data: Any, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Little-endian bytes, packed where the type has fewer than 8 bits, as an array; a view wherever that is possible."""
    count = math.prod(shape)
    octets = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data
    if dtype in SUBBYTE:
        return unpack(octets, dtype, count).reshape(shape)
    if dtype is BOOL:
        return (octets != 0).reshape(shape)
    a = octets.view(dtype.np.newbyteorder("<")) if dtype.np.isbuiltin == 1 else octets.view(dtype.np)
    a = a.astype(dtype.np, copy=False).reshape(shape)
    return a if a.flags.aligned else a.copy()


def unpack(octets: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """`count` elements of 2, 4 or 6 bits from a stream whose first bits are the lowest of the first byte, one element a byte."""
    group = math.lcm(dtype.bits, 8) // 8  # the fewest bytes that hold whole elements
    whole = np.zeros((-(-len(octets) // group), group), np.uint8)
    whole.reshape(-1)[: len(octets)] = octets
    words = whole[:, 0] if group == 1 else whole @ (1 << np.arange(0, 8 * group, 8, dtype=np.uint32))
    shifts = np.arange(0, 8 * group, dtype.bits, dtype=words.dtype)
    bits = (words[:, None] >> shifts).astype(np.uint8).ravel()[:count] & ((1 << dtype.bits) - 1)
    if dtype.kind == "float":
        return bits.view(dtype.np)
    if dtype.kind == "int":
        sign = 1 << (dtype.bits - 1)
        return ((bits.astype(np.int8) ^ sign) - sign).astype(dtype.np)
    return bits.astype(dtype.np)


def _from_field(values: Any, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    if dtype is STR:
        out = np.empty(len(values), object)
        out[:] = [decode_string(s) for s in values]
        return out.reshape(shape)
    if dtype in _FIELDS:
        part: np.dtype = np.dtype({C64: np.float32, C128: np.float64, U32: np.uint64}.get(dtype, dtype.np))
        a = np.fromiter(values, part, len(values))
        if dtype is U32:
            _check_range(a, 0, (1 << 32) - 1, dtype)
            return a.astype(np.uint32).reshape(shape)
        return a.view(dtype.np).reshape(shape)
    a = np.fromiter(values, np.int32, len(values))
    if dtype is BOOL:
        return (a != 0).reshape(shape)
    if dtype in PACKED:  # a byte of packed elements in each number
        _check_range(a, -128, 255, dtype)
        return unpack(a.astype(np.uint8), dtype, math.prod(shape)).reshape(shape)
    if dtype in (F16, BF16) or dtype.is_float:  # the bits of one element in each number
        bits = np.uint16 if dtype.bits == 16 else np.uint8
        _check_range(a, 0, (1 << dtype.bits) - 1, dtype)
        return a.astype(bits).view(dtype.np).reshape(shape)
    info = np.iinfo(dtype.np)
    _check_range(a, int(info.min), int(info.max), dtype)
    return a.astype(dtype.np).reshape(shape)


def _check_range(a: np.ndarray, lo: int, hi: int, dtype: DType) -> None:
    if a.size and (int(a.min()) < lo or int(a.max()) > hi):
        raise HostileModelError(f"the data of type {dtype} holds numbers outside of [{lo}, {hi}]")


def decode_string(raw: bytes | str) -> str:
    """A string of a model; bytes that are no UTF-8 become lone surrogates, which encode back to the same bytes."""
    return raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")


def read_sparse(s: onnx.SparseTensorProto, limits: Limits, folder: Path | None = None) -> tuple[Constant, TensorType]:
    """A sparse tensor made dense: `values` of shape [n] at `indices` of shape [n] (in the flattened tensor) or [n, rank].

    Raises HostileModelError, and LimitError where the dense tensor is larger than `limits.fold_bytes`.
    """
    shape = checked_dims(s.dims)
    values, indices = read_tensor(s.values, limits, folder)[0].array, read_tensor(s.indices, limits, folder)[0].array
    dtype, count = element_type(s.values.data_type), math.prod(shape)
    _check_bytes(count * dtype.itemsize, limits.fold_bytes, "fold_bytes")
    if values.ndim != 1 or indices.dtype != np.int64 or indices.shape not in ((len(values),), (len(values), len(shape))):
        raise HostileModelError(
            f"sparse values {list(values.shape)} at indices {indices.dtype}{list(indices.shape)}; expected values [n] and "
            f"int64 indices [n] or [n, {len(shape)}]"
        )
    sizes = np.array([count] if indices.ndim == 1 else shape, np.int64)
    if ((indices < 0) | (indices >= sizes)).any():
        raise HostileModelError(f"sparse indices lie outside of the dims {list(shape)}")
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape) if len(values) else np.zeros(0, np.int64)
    if len(np.unique(flat)) != len(flat):
        raise HostileModelError("sparse indices name an element twice")
    dense = np.full(count, "", object) if dtype is STR else np.zeros(count, dtype.np)
    dense[flat] = values
    return Constant(dense.reshape(shape)), TensorType(dtype, shape)
