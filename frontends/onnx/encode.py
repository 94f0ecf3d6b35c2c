"""Values of the IR to the messages of the ONNX format: tensors, types, attributes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto as A

from ...ir.symbols import Dim, Symbol, as_symbol, symbols_of
from ...ir.types import BOOL, ONNX_DTYPES, STR, SUBBYTE, DType, MapType, OptionalType, SequenceType, TensorType, Type, dtype_of
from .declared import type_proto

CODES = {d: code for code, d in ONNX_DTYPES.items()}
_LISTS = {A.FLOATS: float, A.INTS: int, A.STRINGS: lambda s: encode_string(s), A.TENSORS: lambda a: tensor_proto("", a)}
_SINGLE = {A.FLOAT: float, A.INT: int, A.STRING: lambda s: encode_string(s), A.TENSOR: lambda a: tensor_proto("", a)}


def encode_string(s: str) -> bytes:
    """The bytes of a string of a model; undoes `tensors.decode_string`."""
    return s.encode("utf-8", "surrogateescape")


def tensor_proto(name: str, array: np.ndarray) -> onnx.TensorProto:
    """A tensor with its contents: raw little-endian bytes, packed where the type has fewer than 8 bits; strings as a list."""
    array = np.asarray(array)
    t = tensor_header(name, dtype_of(array), array.shape)
    if dtype_of(array) is STR:
        t.string_data.extend(encode_string(str(s)) for s in array.ravel())
    else:
        t.raw_data = bytes(raw_bytes(array))
    return t


def tensor_header(name: str, dtype: DType, shape: tuple[int, ...]) -> onnx.TensorProto:
    """A tensor's name, element type and dims."""
    return onnx.TensorProto(name=name, data_type=CODES[dtype], dims=shape)


def raw_bytes(array: np.ndarray) -> memoryview:
    """The bytes of raw_data; no copy where the array lies in memory as they do. Undoes `tensors.from_raw`."""
    dtype = dtype_of(array)
    if dtype in SUBBYTE:
        return memoryview(pack(array, dtype))
    a = np.ascontiguousarray(array)
    if dtype.np.isbuiltin == 1 and dtype is not BOOL:
        a = a.astype(dtype.np.newbyteorder("<"), copy=False)
    return memoryview(a.reshape(-1).view(np.uint8))


def pack(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Elements of 2, 4 or 6 bits as a stream of octets, the first element in the lowest bits. Undoes `tensors.unpack`."""
    bits = array.ravel().view(np.uint8) if dtype.is_float else array.ravel().astype(np.int8).view(np.uint8)
    group = math.lcm(dtype.bits, 8) // 8
    each = 8 * group // dtype.bits
    whole = np.zeros((-(-bits.size // each), each), np.uint32)
    whole.reshape(-1)[: bits.size] = bits & ((1 << dtype.bits) - 1)
    words = (whole << np.arange(0, 8 * group, dtype.bits, dtype=np.uint32)).sum(1, dtype=np.uint32)
    octets = (words[:, None] >> np.arange(0, 8 * group, 8, dtype=np.uint32)).astype(np.uint8)
    return octets.ravel()[: -(-bits.size * dtype.bits // 8)]


def attribute_proto(name: str, value: Any, kind: int | None) -> onnx.AttributeProto:
    """An attribute of the type that the schema says, or of its value's own where there is no schema (kind None).

    Raises ValueError for a value that has no such form.
    """
    kind = _kind(value) if kind is None else kind
    try:
        if isinstance(value, Type):
            return onnx.helper.make_attribute(name, type_proto(value), attr_type=A.TYPE_PROTO)
        plain = [_LISTS[kind](x) for x in value] if kind in _LISTS else _SINGLE[kind](value)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise ValueError(f"the attribute {name} = {value!r} has no form as {A.AttributeType.Name(kind)}") from e
    return onnx.helper.make_attribute(name, plain, attr_type=kind)


def _kind(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        inner, lists = {_kind(x) for x in value}, ((A.TENSOR, A.TENSORS), (A.STRING, A.STRINGS), (A.FLOAT, A.FLOATS))
        return next((many for one, many in lists if one in inner), A.INTS)
    for types, kind in ((str, A.STRING), ((bool, int, np.integer), A.INT), ((float, np.floating), A.FLOAT), (np.ndarray, A.TENSOR)):
        if isinstance(value, types):
            return kind
    return A.TYPE_PROTO


def type_text(t: Type) -> str:
    """A type as schemas spell what they allow: `tensor(float)`, `seq(tensor(int64))`."""
    if isinstance(t, SequenceType):
        return f"seq({type_text(t.elem)})"
    if isinstance(t, OptionalType):
        return f"optional({type_text(t.elem)})"
    if isinstance(t, MapType):
        return f"map({dtype_text(t.key)},{type_text(t.value)})"
    return f"tensor({dtype_text(t.dtype)})"


def dtype_text(d: DType) -> str:
    """ONNX's name of an element type."""
    return onnx.TensorProto.DataType.Name(CODES[d]).lower()


def value_info(name: str, t: Type | None, with_symbols: bool) -> onnx.ValueInfoProto:
    """A declared value. Symbolic dims are written out as dim_params, or left blank inside of regions, where the same name may
    stand for another size in each run."""
    names = {d: dim_text(d) for d in _dims(t)} if with_symbols else None
    return onnx.ValueInfoProto(name=name, type=None if t is None else type_proto(t, names))


def _dims(t: Type | None) -> list[Dim]:
    if isinstance(t, TensorType):
        return [d for d in t.shape or () if isinstance(d, Dim)]
    return _dims(t.elem) if isinstance(t, (SequenceType, OptionalType)) else []


def dim_text(d: Dim) -> str:
    """A dim as a dim_param: the symbol's own name, or the text of the expression over names (`2*N + 1`)."""
    s = as_symbol(d)
    return s.name if s is not None else str(d).replace("$", "")


def ranges(t: Type | None) -> dict[str, list[int | None]]:
    """The bounds of the symbols in a type that say more than a size does of itself."""
    found: set[Symbol] = set().union(*(symbols_of(d) for d in _dims(t)))
    plain = Symbol("")
    told = [s for s in sorted(found, key=str) if (s.lo, s.hi) != (plain.lo, plain.hi)]
    return {s.name: [s.lo, None if s.hi >= plain.hi else s.hi] for s in told}
