"""Extractors, scalers and normalizers of ai.onnx.ml."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..op import InferContext, Onnx, ex, op
from ..symbols import DimLike
from ..types import F32, F64, I32, I64, STR, TensorType
from .contents import checked, choice, want_rank
from .examples import rand

ML = "ai.onnx.ml"
NUMBERS = frozenset({F32, F64, I64, I32})


def texts(*values: str) -> np.ndarray:
    return np.array(values, object)


def one_of(c: InferContext, *names: str) -> str:
    """The only one of these attributes that is given."""
    given = [n for n in names if c.attr(n) is not None and len(c.attr(n))]
    if len(given) != 1:
        raise c.error(f"expected one of the attributes {', '.join(names)}, found {', '.join(given) or 'none'}")
    return given[0]


def _infer_extract(c: InferContext) -> TensorType:
    x, index = c.t(0), c.shape(1)
    if x.shape is None:
        return x
    if not x.shape:
        raise c.error("X is a scalar, expected rank >= 1")
    count: Any = c.symbol() if index is None else 1
    for d in index or ():
        count = count * d
    return x.with_(shape=checked(c, ((1, count) if len(x.shape) == 1 else (*x.shape[:-1], count))))


def _extract_examples() -> list:
    x = rand(3, 4)
    return [
        ex(x, np.array([0, 3], np.int64)),
        ex(x[0], np.array([2], np.int64)),
        ex(np.array([["a", "b"]], object), np.array([[1, 0]], np.int64)),
        ex(rand(2, 3, 4), np.array([[1]], np.int64)),
    ]


@op(
    "array_feature_extractor",
    onnx=Onnx("ArrayFeatureExtractor", ML),
    infer=_infer_extract,
    dtypes={"X": NUMBERS | {STR}, "Y": {I64}},
    examples=_extract_examples,
)
def array_feature_extractor(X, Y):
    """The columns Y of the last axis; a row alone gives one row."""
    index = Y.ravel()
    if np.any(index < 0) or np.any(index >= X.shape[-1]):
        raise IndexError(f"columns {index.tolist()} are out of range for {X.shape[-1]}")
    out = X[..., index]
    return out[None] if X.ndim == 1 else out


@op(
    "binarizer",
    onnx=Onnx("Binarizer", ML),
    infer=lambda c: c.t(0),
    dtypes={"X": NUMBERS},
    examples=lambda: [ex(rand(2, 3), threshold=0.25), ex(rand(2, 3)), ex(np.float32(0)), ex(np.zeros((0, 2), np.float32))],
)
def binarizer(X, *, threshold=0.0):
    """1 above the threshold, else 0."""
    return (np.float32(threshold) < X).astype(X.dtype)


def _infer_feature_vectorizer(c: InferContext) -> TensorType:
    rows: DimLike | None = None
    width: DimLike = 0
    sizes = c.attr("inputdimensions") or [None] * len(c.types)
    if not c.types or len(sizes) != len(c.types):
        raise c.error(f"{len(sizes)} inputdimensions for {len(c.types)} operands, expected as many, and at least one")
    for i, size in enumerate(sizes):
        want_rank(c, i, 1, 2)
        shape = c.shape(i)
        width = width + (size if size is not None else c.symbol() if shape is None else shape[-1])
        rows = rows if shape is None else shape[0] if len(shape) == 2 else 1
    return TensorType(F32, checked(c, (c.symbol() if rows is None else rows, width)))


def _vectorizer_examples() -> list:
    a, b = rand(2, 3), rand(2, 2, dtype=np.float32, seed=1)
    return [
        ex(a, b, inputdimensions=(3, 2)),
        ex(a, inputdimensions=(3,)),
        ex(a, b, inputdimensions=(2, 4)),
        ex(a.astype(np.int64), inputdimensions=(3,)),
    ]


@op(
    "feature_vectorizer",
    onnx=Onnx("FeatureVectorizer", ML),
    infer=_infer_feature_vectorizer,
    dtypes={"X": NUMBERS},
    examples=_vectorizer_examples,
)
def feature_vectorizer(*X, inputdimensions=None):
    """The operands side by side as f32, each cut, or filled up with zeros, to its `inputdimensions`."""
    parts = []
    for i, x in enumerate(X):
        x = (x if x.ndim == 2 else x.reshape(1, -1)).astype(np.float32)
        size = x.shape[1] if inputdimensions is None else inputdimensions[i]
        part = np.zeros((len(x), size), np.float32)
        part[:, : min(size, x.shape[1])] = x[:, :size]
        parts.append(part)
    return np.concatenate(parts, 1)


def _infer_imputer(c: InferContext) -> TensorType:
    x, name = c.t(0), "imputed_value_floats" if c.t(0).dtype.is_float else "imputed_value_int64s"
    values = c.attr(name)
    size = x.shape[-1] if x.shape else None
    if not values or (len(values) != 1 and isinstance(size, int) and len(values) != size):
        raise c.error(f"{name} has {len(values or ())} entries for {x}; expected one, or one a feature")
    return x


def _imputer_examples() -> list:
    x = np.array([[1, np.nan, 3], [np.nan, 5, 6]], np.float32)
    whole = np.array([[1, -1], [-1, 4]], np.int64)
    return [
        ex(x, imputed_value_floats=(9.0, 8.0, 7.0), replaced_value_float=float("nan")),
        ex(x, imputed_value_floats=(0.5,), replaced_value_float=3.0),
        ex(whole, imputed_value_int64s=(7,), replaced_value_int64=-1),
        ex(whole, imputed_value_int64s=(7, 8), replaced_value_int64=-1),
    ]


@op("imputer", onnx=Onnx("Imputer", ML), infer=_infer_imputer, dtypes={"X": NUMBERS}, examples=_imputer_examples)
def imputer(X, *, imputed_value_floats=None, imputed_value_int64s=None, replaced_value_float=0.0, replaced_value_int64=0):
    """X with the replaced value (NaN too) given way to the imputed one of its column."""
    if X.dtype.kind == "f":
        replaced = np.float32(replaced_value_float)
        return np.where(np.isnan(X) if np.isnan(replaced) else replaced == X, np.array(imputed_value_floats, X.dtype), X)
    return np.where(replaced_value_int64 == X, np.array(imputed_value_int64s, X.dtype), X)


def _normalizer_examples() -> list:
    x = rand(3, 4)
    return [
        *(ex(x, norm=n) for n in ("MAX", "L1", "L2")),
        ex(np.zeros((2, 3), np.float32), norm="L2"),
        ex(rand(2, 3, dtype=np.int64, hi=9), norm="L1"),
        ex(x - 9, norm="MAX"),
    ]


def _infer_normalizer(c: InferContext) -> TensorType:
    choice(c, "norm", ("MAX", "L1", "L2"))
    return c.t(0).with_(dtype=F32)


@op("normalizer", onnx=Onnx("Normalizer", ML), infer=_infer_normalizer, dtypes={"X": NUMBERS}, examples=_normalizer_examples)
def normalizer(X, *, norm="MAX"):
    """Each row divided by its maximum, the sum of its magnitudes or its length, where that is not zero."""
    x = X.astype(np.float32)
    if norm == "MAX":
        by = x.max(-1, keepdims=True, initial=-np.inf) if x.size else x
    elif norm == "L1":
        by = np.abs(x).sum(-1, keepdims=True)
    else:
        by = np.sqrt((x * x).sum(-1, keepdims=True))
    return np.where(by == 0, x, x / np.where(by == 0, 1, by)).astype(np.float32)


def _infer_scaler(c: InferContext) -> TensorType:
    x = c.t(0)
    for name in ("scale", "offset"):
        values, size = c.attr(name), x.shape[-1] if x.shape else None
        if values and len(values) != 1 and isinstance(size, int) and len(values) != size:
            raise c.error(f"{name} has {len(values)} entries for {x}; expected one, or one a feature")
    return x.with_(dtype=F32)


@op(
    "scaler",
    onnx=Onnx("Scaler", ML),
    infer=_infer_scaler,
    dtypes={"X": NUMBERS},
    examples=lambda: [
        ex(rand(3, 2), scale=(2.0, 0.5), offset=(1.0, -1.0)),
        ex(rand(3, 2), scale=(3.0,), offset=(0.5,)),
        ex(rand(2, 2, dtype=np.int64, hi=9), scale=(2.0, 0.5), offset=(1.0, -1.0)),
        ex(rand(2, 2).astype(np.float64), scale=(2.0, 0.5), offset=(1.0, -1.0)),
    ],
)
def scaler(X, *, offset=None, scale=None):
    """(X - offset) * scale, one of each for every feature or one for all."""
    wide = X.astype(np.float64 if X.dtype == np.float64 else np.float32)
    shifted = wide - np.array(offset, np.float32) if offset else wide
    return (shifted * np.array(scale, np.float32) if scale else shifted).astype(np.float32)
