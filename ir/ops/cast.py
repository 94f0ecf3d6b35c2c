"""Changing the element type; the identity, and dropout, which is one in inference."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from .. import scalar, scalar_numpy
from ..op import Example, InferContext, Onnx, OnnxCall, drop_attrs, dtype_attrs, elementwise, ex, op
from ..scalar import Expr, bitcast, minimum
from ..scalar import cast as convert
from ..scalar import where as choose
from ..types import (
    ANY,
    BF16,
    BOOL,
    COMPLEX,
    DTYPES,
    F16,
    F32,
    F64,
    FLOATS,
    I4,
    I8,
    I32,
    I64,
    STR,
    U2,
    U4,
    U8,
    U32,
    U64,
    DType,
    TensorType,
    Type,
    dtype_of,
)
from .compare import F8_WITH_NAN
from .examples import f32, rand

E8M0 = DTYPES["f8e8m0"]
CASTABLE = ANY - COMPLEX
_FLOAT6 = frozenset({DTYPES["f6e2m3"], DTYPES["f6e3m2"]})
_LEGACY_NAMES = {"FLOAT": F32, "DOUBLE": F64, "FLOAT16": F16, "BOOL": BOOL, "STRING": STR} | {
    f"{kind.upper()}{bits}": DTYPES[f"{kind[0]}{bits}"] for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


def _named_type(call: OnnxCall) -> None:
    """Before opset 6 the type to cast to was given by name."""
    name = call.attrs.get("to")
    if isinstance(name, str):
        if name not in _LEGACY_NAMES:
            raise ValueError(f'to = "{name}"; expected one of {", ".join(_LEGACY_NAMES)}')
        call.attrs["to"] = _LEGACY_NAMES[name]


def cast_reference(x: np.ndarray, *, to: DType, saturate: int = 1, round_mode: str = "up") -> np.ndarray:
    """The numpy reference of cast: its expression, and text read and written."""
    x = np.asarray(x)
    if dtype_of(x) is STR and to is not STR:
        x = _from_text(x, to if to in (F64, U64) else I64 if to.is_integer else F32)
    if to is STR:
        return x if dtype_of(x) is STR else _to_text(x)
    return _numeric_cast(x, to=to, saturate=saturate, round_mode=round_mode)


def _from_text(x: np.ndarray, to: DType) -> np.ndarray:
    """Numbers from their text. Raises ValueError for text that is no number, OverflowError for an integer that does not fit."""
    read = _read_integer if to.is_integer else float
    return np.array([read(str(text)) for text in x.ravel()], to.np).reshape(x.shape)


def _read_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not np.isfinite(value):
            raise ValueError(f"cast of the text {text!r} to an integer") from None
        return int(value)


def _to_text(x: np.ndarray) -> np.ndarray:
    """The shortest text that reads back as the same number; NaN, INF and -INF; bools as 1 and 0."""
    dtype = dtype_of(x)
    if not dtype.is_float:
        values = scalar_numpy.convert(x, I64 if dtype.bits < 64 else dtype)
        return np.array([str(v) for v in values.ravel().tolist()], object).reshape(x.shape)
    special = {"nan": "NaN", "inf": "INF", "-inf": "-INF"}
    texts = [str(v) for v in (x if dtype.name in ("f64", "f32", "f16") else x.astype(np.float32)).ravel()]
    return np.array([special.get(t, t) for t in texts], object).reshape(x.shape)


def _casts() -> list[Example]:
    f = f32([0, -0.0, 0.4789, 1.5, -2.5, 300, 1e6, -1e6, np.inf, -np.inf, np.nan])
    whole = np.array([-9, -1, 0, 1, 7, 15, 100])
    finite = [ex(f[:6], to=t) for t in (I64, I32, BOOL, F16, F64, BF16)]
    narrow = [ex(f[:5], to=t) for t in (I8, I4, DTYPES["i2"])] + [ex(np.abs(f[:4]), to=t) for t in (U8, U4, U2)]
    low = [ex(f, to=t, saturate=s) for t in sorted(F8_WITH_NAN, key=str) for s in (0, 1)]
    packed = [
        ex(whole.astype(ml_dtypes.int4), to=F32),
        ex(whole.astype(ml_dtypes.uint4), to=I8),
        ex(whole.astype(ml_dtypes.int2), to=F16),
    ]
    scales = f32([0.124, 0.25, 0.3, 1.1, 1.5, 3, 1e38])
    exponents = [ex(scales, to=E8M0, round_mode=m) for m in ("up", "down", "nearest")] + [ex(scales.astype(E8M0.np), to=F32)]
    small = [ex(f, to=DTYPES[n]) for n in ("f4e2m1", "f6e2m3", "f6e3m2")]
    text = np.array(["3.5", "1e-5", "+INF", "-inf", "nan", "7"], object)
    strings = [ex(text, to=F32), ex(text[:2], to=F64), ex(np.array(["12", "-3"], object), to=I64), ex(np.array([[12, -3]]), to=STR)]
    wrapped = [
        ex(np.array([200, -300], np.int16), to=I8),
        ex(np.array([2**40 + 5, -1]), to=U32),
        ex(np.array([True, False]), to=F32),
    ]
    return [*finite, *narrow, *low, *packed, *exponents, *small, *strings, *wrapped, ex(np.zeros((0, 2), np.float32), to=I32)]


def cast_value(x: Expr, *, to: DType, saturate: int = 1, round_mode: str = "up") -> Expr:
    """x in another element type: floats truncate to integers, integers wrap.

    Where the target is a float8, a value out of range becomes the greatest number, or with saturate = 0 what the format has
    (infinity or NaN). `round_mode` (up, down, nearest) says how f8e8m0, which has powers of two only, rounds.
    """
    if to is E8M0:
        return _exponent(x, saturate, round_mode)
    if to in F8_WITH_NAN and saturate and x.dtype is not BOOL:
        w = x if x.dtype in FLOATS else convert(x, F32)
        limit = float(ml_dtypes.finfo(to.np).max)
        return convert(choose(w > limit, limit, choose(w < -limit, -limit, w)), to)
    return convert(x, to)


def _exponent(x: Expr, saturate: int, round_mode: str) -> Expr:
    """|x| as f8e8m0 (powers of two from 2^-127 to 2^127, and NaN as 255): the exponent field of f32, rounded by the mantissa."""
    if round_mode not in ("up", "down", "nearest"):
        raise TypeError(f'round_mode = "{round_mode}"; expected "up", "down" or "nearest"')
    w = convert(x, F32)
    bits = bitcast(w, U32)
    exponent, mantissa = (bits >> 23) & 255, bits & 0x7FFFFF
    # With exponent 0 the number is denormal: 2^-127 (0 in the result) is the mantissa's highest bit, 2^-126 lies one above it.
    if round_mode != "down":
        normal, denormal = (0, 0x400000) if round_mode == "up" else (0x3FFFFF, 0x5FFFFF)
        above = mantissa > choose(exponent > 0, scalar.const(normal, U32), denormal)
        exponent = exponent + convert(above, U32)
    if saturate:
        exponent = minimum(exponent, 254)
    else:
        exponent = choose((bits & 0x7FFFFFFF) < 0x400000, 255, minimum(exponent, 255))
    return bitcast(convert(choose(scalar.call("isnan", w), 255, exponent), U8), E8M0)


_numeric_cast = scalar_numpy.numpy_reference(cast_value)
cast = elementwise("cast", onnx=Onnx("Cast", before={6: _named_type}, adapt=dtype_attrs("to")), dtypes=CASTABLE,
                   reference=cast_reference, examples=_casts)(cast_value)  # fmt: skip


def _infer_cast_like(c: InferContext) -> TensorType:
    return TensorType(c.t(1).dtype, c.shape(0), c.t(0).layout)


def _cast_like_dims(c: InferContext) -> np.ndarray | None:
    data = c.data(0)
    return data if data is not None and data.dtype == object and c.t(0).dtype in (I32, I64) and c.t(1).dtype in (I32, I64) else None


def _casts_like() -> list[Example]:
    f = f32([0.25, 1.5, 300, 1e6, np.inf, np.nan])
    like = [np.zeros((), t) for t in (np.float16, np.float64, BF16.np, bool)]
    low = [np.zeros(2, d.np) for d in sorted(F8_WITH_NAN, key=str)]
    text = [ex(np.array(["1", "2.5"], object), np.float32(0)), ex(np.array([1, 2]), np.array(["x", "y", "z"], object))]
    return [*(ex(f, t) for t in like + low), ex(f, low[0], saturate=0), ex(f[:2], np.zeros((0,), np.int32)), *text]


@op("cast_like", onnx=Onnx("CastLike", since=15), dtypes={"x": CASTABLE - _FLOAT6, "target": CASTABLE - _FLOAT6},
    infer=_infer_cast_like, dims=_cast_like_dims, examples=_casts_like)  # fmt: skip
def cast_like(x: np.ndarray, target: np.ndarray, *, saturate: int = 1, round_mode: str = "up") -> np.ndarray:
    """x in the element type of `target`, by the rules of cast."""
    return cast_reference(x, to=dtype_of(target), saturate=saturate, round_mode=round_mode)


def _bit_casts() -> list[Example]:
    f = f32([[1, -0.0, np.nan, np.inf]])
    return [
        ex(f, to=U32),
        ex(f, to=I32),
        ex(np.array([1065353216, -1], np.int32), to=F32),
        ex(f.astype(np.float64), to=I64),
        ex(f.astype(BF16.np), to=F16),
        ex(np.array([0, 200], np.uint8), to=I8),
        ex(np.array([-1, 7, -8]).astype(ml_dtypes.int4), to=U4),
        ex(np.array([0, 1], np.uint8), to=BOOL),
        ex(np.zeros((0, 2), np.int32), to=F32),
    ]


@elementwise("bit_cast", onnx=Onnx("BitCast", since=26, adapt=dtype_attrs("to")), dtypes=ANY - {STR} - _FLOAT6, examples=_bit_casts)
def bit_cast(x: Expr, *, to: DType) -> Expr:
    """The bits of x as another element type of the same width."""
    return bitcast(x, to)


def _infer_identity(c: InferContext) -> Type:
    if c.types[0] is None:
        raise c.error("the operand is missing")
    return c.types[0]


def _anything() -> list[Example]:
    return [ex(rand(2, 3)), ex(np.array(["a"], object)), ex(np.int64(3)), ex(np.zeros((0,), bool)), ex([rand(2), rand(3)])]


@op("identity", onnx="Identity", infer=_infer_identity, dims=lambda c: c.data(0), traits=("view",), examples=_anything)
def identity(x: np.ndarray) -> np.ndarray:
    """x itself, of any type."""
    return x


def _infer_dropout(c: InferContext) -> list[TensorType]:
    x = c.t(0)
    return [x, TensorType(BOOL, x.shape, x.layout)][: c.n_results]


def _legacy_dropout(call: OnnxCall) -> None:
    """Before opset 12 dropout did nothing in inference; its ratio (and is_test, before 7) spoke of training only."""
    drop_attrs("consumed_inputs", "is_test", "ratio", "seed")(call)


def _dropouts() -> list[Example]:
    x = rand(3, 4)
    return [
        ex(x),
        ex(x, results=2),
        ex(x, np.float32(0.5), results=2),
        ex(x, np.float32(0.5), np.bool_(False), results=2),
        ex(x, np.float32(0), np.bool_(True), results=2),
        ex(x.astype(np.float64), np.float32(0.25), np.bool_(True), seed=0, results=2),
        ex(x.astype(np.float16), None, np.bool_(True), seed=1),
        ex(np.zeros((0, 2), np.float32), np.float32(0.5), np.bool_(True), results=2),
    ]


_DROPPED = FLOATS | F8_WITH_NAN


@op("dropout", onnx=Onnx("Dropout", before={12: _legacy_dropout}), dtypes={"x": _DROPPED, "ratio": _DROPPED, "training": {BOOL}},
    infer=_infer_dropout, results=None, traits=("random",), examples=_dropouts)  # fmt: skip
def dropout(x: np.ndarray, ratio: np.ndarray | None = None, training: np.ndarray | None = None, *, seed: int | None = None):
    """x, and a mask of what was kept (all of it). In training each element is dropped with probability `ratio` (0.5 where left
    out) and the others are scaled by 1 / (1 - ratio), by numpy's RandomState of the seed."""
    share = 0.5 if ratio is None else float(ratio)
    if training is None or not np.asarray(training).item() or share == 0:
        return x, np.ones(x.shape, bool)
    if not 0 <= share < 1:
        raise ValueError(f"the ratio is {share}; expected 0 <= ratio < 1")
    random = np.random.RandomState(None if seed is None else int(seed) % 2**32)
    mask = random.uniform(0, 1, x.shape) >= share
    wide = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    return np.where(mask, np.divide(wide, 1 - share), 0).astype(x.dtype), mask
