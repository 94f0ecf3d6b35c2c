"""Element types and the types of values.

`DType` names follow the text IR (`f32`, `i64`, `bf16`, `f8e4m3fn`, ...). Types of fewer than 8 bits are held one element a
byte in memory, as ml_dtypes does; only files pack them. Strings are numpy object arrays of `str`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from .layout import Layout
from .symbols import DimLike, product


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """An element type: its name in the text IR, its numpy dtype, its kind and its width in bits. There is one object of each,
    also among what is copied or pickled, so that they are compared and hashed by identity."""

    name: str
    np: np.dtype
    kind: str  # float, int, uint, bool, complex, string
    bits: int

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple:
        return _by_name, (self.name,)

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory."""
        return self.np.itemsize

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")


def _by_name(name: str) -> DType:
    return DTYPES[name]


def _make() -> dict[str, DType]:
    m = ml_dtypes
    rows = [
        ("f64", np.float64, "float", 64), ("f32", np.float32, "float", 32), ("f16", np.float16, "float", 16),
        ("bf16", m.bfloat16, "float", 16), ("f8e4m3fn", m.float8_e4m3fn, "float", 8),
        ("f8e4m3fnuz", m.float8_e4m3fnuz, "float", 8), ("f8e5m2", m.float8_e5m2, "float", 8),
        ("f8e5m2fnuz", m.float8_e5m2fnuz, "float", 8), ("f8e8m0", m.float8_e8m0fnu, "float", 8),
        ("f6e2m3", m.float6_e2m3fn, "float", 6), ("f6e3m2", m.float6_e3m2fn, "float", 6), ("f4e2m1", m.float4_e2m1fn, "float", 4),
        ("i64", np.int64, "int", 64), ("i32", np.int32, "int", 32), ("i16", np.int16, "int", 16), ("i8", np.int8, "int", 8),
        ("i4", m.int4, "int", 4), ("i2", m.int2, "int", 2),
        ("u64", np.uint64, "uint", 64), ("u32", np.uint32, "uint", 32), ("u16", np.uint16, "uint", 16),
        ("u8", np.uint8, "uint", 8), ("u4", m.uint4, "uint", 4), ("u2", m.uint2, "uint", 2),
        ("bool", np.bool_, "bool", 8), ("c64", np.complex64, "complex", 64), ("c128", np.complex128, "complex", 128),
        ("str", np.object_, "string", 64),
    ]  # fmt: skip
    return {name: DType(name, np.dtype(t), kind, bits) for name, t, kind, bits in rows}


DTYPES: dict[str, DType] = _make()
_BY_NUMPY = {d.np: d for d in DTYPES.values()}

F64, F32, F16, BF16 = (DTYPES[n] for n in ("f64", "f32", "f16", "bf16"))
I64, I32, I16, I8, I4, I2 = (DTYPES[n] for n in ("i64", "i32", "i16", "i8", "i4", "i2"))
U64, U32, U16, U8, U4, U2 = (DTYPES[n] for n in ("u64", "u32", "u16", "u8", "u4", "u2"))
BOOL, C64, C128, STR = (DTYPES[n] for n in ("bool", "c64", "c128", "str"))

# TensorProto.DataType of the ONNX format.
ONNX_DTYPES: dict[int, DType] = {
    1: F32, 2: U8, 3: I8, 4: U16, 5: I16, 6: I32, 7: I64, 8: STR, 9: BOOL, 10: F16, 11: F64, 12: U32, 13: U64, 14: C64, 15: C128,
    16: BF16, 17: DTYPES["f8e4m3fn"], 18: DTYPES["f8e4m3fnuz"], 19: DTYPES["f8e5m2"], 20: DTYPES["f8e5m2fnuz"], 21: U4, 22: I4,
    23: DTYPES["f4e2m1"], 24: DTYPES["f8e8m0"], 25: U2, 26: I2, 27: DTYPES["f6e2m3"], 28: DTYPES["f6e3m2"],
}  # fmt: skip

# The families that operators speak of.
FLOATS = frozenset({F64, F32, F16, BF16})
FLOAT8 = frozenset(d for d in DTYPES.values() if d.name.startswith("f8"))
SIGNED = frozenset({I64, I32, I16, I8})
UNSIGNED = frozenset({U64, U32, U16, U8})
INTEGERS = SIGNED | UNSIGNED
NUMERIC = FLOATS | INTEGERS
COMPLEX = frozenset({C64, C128})
SUBBYTE = frozenset(d for d in DTYPES.values() if d.bits < 8)
ANY = frozenset(DTYPES.values())


def dtype_of(x) -> DType:
    """The DType of a numpy dtype, an array, a DType or its name. Raises TypeError for what the IR has no type for."""
    if isinstance(x, DType):
        return x
    if isinstance(x, str) and x in DTYPES:
        return DTYPES[x]
    d = np.dtype(getattr(x, "dtype", x))
    if d.kind in "USTO":
        return STR
    try:
        return _BY_NUMPY[d.newbyteorder("=") if d.byteorder not in "=|" else d]
    except KeyError:
        raise TypeError(f"there is no element type for numpy's {d}") from None


Shape = tuple[DimLike, ...]


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor. `shape` is None where even the rank is unknown; `layout` None is the row-major order of the axes.

    The order of the logical axes never changes: a layout says only how they lie in memory.
    """

    dtype: DType
    shape: Shape | None
    layout: Layout | None = None

    def __str__(self) -> str:
        dims = "[*]" if self.shape is None else "[" + ",".join(str(d) for d in self.shape) + "]"
        return f"{self.dtype}{dims}{'{' + str(self.layout) + '}' if self.layout else ''}"

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @property
    def size(self) -> DimLike:
        """The number of elements; raises TypeError for an unknown rank."""
        if self.shape is None:
            raise TypeError("the size of a tensor of unknown rank")
        return product(self.shape)

    def with_(self, **kw) -> TensorType:
        return replace(self, **kw)


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A list of values of one type."""

    elem: Type

    def __str__(self) -> str:
        return f"seq<{self.elem}>"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value that may be absent (None)."""

    elem: Type

    def __str__(self) -> str:
        return f"opt<{self.elem}>"


@dataclass(frozen=True, slots=True)
class MapType:
    """A dictionary from `key` (an integer type or str) to `value`."""

    key: DType
    value: Type

    def __str__(self) -> str:
        return f"map<{self.key}, {self.value}>"


Type = TensorType | SequenceType | OptionalType | MapType


def type_of(value) -> Type:
    """The type of a run-time value: array, list (sequence), dict (map). An empty sequence counts as one of f32 tensors."""
    if isinstance(value, np.ndarray) or np.isscalar(value):
        a = np.asarray(value)
        return TensorType(dtype_of(a), a.shape)
    if isinstance(value, list):
        return SequenceType(type_of(value[0]) if value else TensorType(F32, None))
    if isinstance(value, dict):
        key, val = next(iter(value.items()), (0, np.float32(0)))
        return MapType(STR if isinstance(key, str) else I64, type_of(np.asarray(val)))
    raise TypeError(f"a {type(value).__name__} is no value of the IR")
