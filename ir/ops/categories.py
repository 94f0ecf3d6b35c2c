"""Encoders of categories, and maps, of ai.onnx.ml."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..op import InferContext, Onnx, OnnxCall, ex, op
from ..types import F32, F64, I16, I32, I64, STR, DType, MapType, SequenceType, TensorType, Type, dtype_of
from .contents import checked, choice, want_rank
from .ml import ML, NUMBERS, one_of, texts

# ---- categories


def lookup(keys: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each element of `x` the place of an equal key (the last of equal keys; NaN equals NaN), and whether there is one."""
    if not len(keys):
        return np.zeros(x.shape, np.int64), np.zeros(x.shape, bool)
    last = len(keys) - 1 - np.unique(keys[::-1], return_index=True)[1]
    ranked = keys[last]
    at = np.minimum(np.searchsorted(ranked, x.ravel()), len(ranked) - 1).reshape(x.shape)
    found = ranked[at] == x
    if x.dtype.kind == "f":
        found |= np.isnan(x) & np.isnan(ranked[at])
    return last[at], np.asarray(found, bool)


def _mapped(x: np.ndarray, keys: np.ndarray, values: np.ndarray, default: Any) -> np.ndarray:
    at, found = lookup(keys, x)
    fill = np.asarray(default, values.dtype).reshape(())
    if not len(values):
        return np.full(x.shape, fill, values.dtype)
    return np.where(found, values[at], fill).astype(values.dtype)


def _infer_category_mapper(c: InferContext) -> TensorType:
    a, b = c.attr("cats_int64s") or (), c.attr("cats_strings") or ()
    if len(a) != len(b):
        raise c.error(f"{len(a)} cats_int64s and {len(b)} cats_strings, expected as many")
    return c.t(0).with_(dtype=I64 if c.t(0).dtype == STR else STR)


@op(
    "category_mapper",
    onnx=Onnx("CategoryMapper", ML),
    infer=_infer_category_mapper,
    dtypes={"X": {STR, I64}},
    examples=lambda: [
        ex(texts("b", "x", "a"), cats_int64s=(5, 6), cats_strings=("a", "b")),
        ex(np.array([[6, 9]], np.int64), cats_int64s=(5, 6), cats_strings=("a", "b"), default_string="?"),
    ],
)
def category_mapper(X, *, cats_int64s=None, cats_strings=None, default_int64=-1, default_string="_Unused"):
    """Strings to their integers, or integers to their strings."""
    ints, strings = np.array(cats_int64s or (), np.int64), np.array(list(cats_strings or ()), object)
    return _mapped(X, strings, ints, default_int64) if X.dtype == object else _mapped(X, ints, strings, default_string)


KEYS = ("keys_floats", "keys_int64s", "keys_strings", "keys_tensor")
VALUES = ("values_floats", "values_int64s", "values_strings", "values_tensor")
_ARRAYS = {"floats": np.float32, "int64s": np.int64, "strings": object}


def _array(name: str, value: Any) -> np.ndarray:
    kind = name.rpartition("_")[2]
    return np.asarray(value).ravel() if kind == "tensor" else np.array(list(value), _ARRAYS[kind])


def _infer_label_encoder(c: InferContext) -> TensorType:
    k, v = one_of(c, *KEYS), one_of(c, *VALUES)
    keys, values = _array(k, c.attr(k)), _array(v, c.attr(v))
    if len(keys) != len(values):
        raise c.error(f"{k} has {len(keys)} entries and {v} {len(values)}, expected as many")
    if dtype_of(keys) != c.t(0).dtype:
        raise c.error(f"{k} hold {dtype_of(keys)}, but X is {c.t(0).dtype}")
    return c.t(0).with_(dtype=dtype_of(values))


def _label_encoder_1(call: OnnxCall) -> None:
    """Opset 1: one list of classes, whose places are the integers; the element type says which way."""
    classes = tuple(call.attrs.pop("classes_strings", ()))
    text = call.dtype(call.inputs[0]) == STR
    call.attrs["keys_strings" if text else "keys_int64s"] = classes if text else tuple(range(len(classes)))
    call.attrs["values_int64s" if text else "values_strings"] = tuple(range(len(classes))) if text else classes


def label_tables(a: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, Any]:
    """The keys of a label_encoder, their values, and the value of all others, from its attributes."""
    keys = next(_array(k, a[k]) for k in KEYS if a[k] is not None and len(a[k]))
    name = next(v for v in VALUES if a[v] is not None and len(a[v]))
    values = _array(name, a[name])
    kind = name.rpartition("_")[2]
    default = a["default_tensor"] if kind == "tensor" else a["default_" + kind.removesuffix("s")]
    if default is None:
        default = a[{"O": "default_string", "f": "default_float"}.get(values.dtype.kind, "default_int64")]
    return keys, values, np.asarray(default, values.dtype).reshape(())


LABELS = frozenset({STR, I64, F32, I32, I16, F64})


def _label_examples() -> list:
    return [
        ex(texts("Dori", "Amy", "Amy", "Sally"), keys_strings=("Amy", "Sally"), values_int64s=(5, 6)),
        ex(
            np.array([1.0, np.nan, 2.5], np.float32),
            keys_floats=(1.0, float("nan")),
            values_strings=("one", "none"),
            default_string="?",
        ),
        ex(np.array([[3, 4], [5, 3]], np.int64), keys_int64s=(3, 4), values_floats=(0.5, -1.0)),
        ex(
            texts("a", "b", "c"),
            keys_tensor=texts("a", "b"),
            values_tensor=np.array([1, 2], np.int16),
            default_tensor=np.array([42], np.int16),
        ),
        ex(np.array([1, 2], np.int64), keys_int64s=(1, 2), values_int64s=(10, 20)),
        ex(np.array([], np.int64), keys_int64s=(1,), values_int64s=(10,)),
    ]


@op(
    "label_encoder",
    onnx=Onnx("LabelEncoder", ML, before={2: _label_encoder_1}),
    infer=_infer_label_encoder,
    dtypes={"X": LABELS},
    examples=_label_examples,
)
def label_encoder(
    X,
    *,
    default_float=-0.0,
    default_int64=-1,
    default_string="_Unused",
    default_tensor=None,
    keys_floats=None,
    keys_int64s=None,
    keys_strings=None,
    keys_tensor=None,
    values_floats=None,
    values_int64s=None,
    values_strings=None,
    values_tensor=None,
):
    """The value beside the key that equals the element, or the default. Of equal keys the last counts; NaN equals NaN."""
    return _mapped(X, *label_tables(dict(locals())))


def _infer_one_hot_encoder(c: InferContext) -> TensorType:
    x, name = c.t(0), one_of(c, "cats_int64s", "cats_strings")
    if (name == "cats_strings") != (x.dtype == STR):
        raise c.error(f"{name} are given, but X is {x.dtype}")
    return TensorType(F32, None if x.shape is None else checked(c, (*x.shape, len(c.attr(name)))))


@op(
    "one_hot_encoder",
    onnx=Onnx("OneHotEncoder", ML),
    infer=_infer_one_hot_encoder,
    dtypes={"X": NUMBERS | {STR}},
    examples=lambda: [
        ex(np.array([[1, 7], [3, 2]], np.int64), cats_int64s=(1, 2, 3)),
        ex(texts("b", "a"), cats_strings=("a", "b"), zeros=0),
        ex(np.array([2.9, 1.0], np.float32), cats_int64s=(1, 2)),
        ex(np.zeros((0, 2), np.int64), cats_int64s=(1,)),
    ],
)
def one_hot_encoder(X, *, cats_int64s=None, cats_strings=None, zeros=1):
    """A new last axis with 1 at the element's category; zeros for unknown ones, which raise ValueError if not `zeros`."""
    cats = np.array(list(cats_strings), object) if cats_strings else np.array(cats_int64s, np.int64)
    at, found = lookup(cats, X if X.dtype == object else X.astype(np.int64))
    if not zeros and not np.all(found):
        raise ValueError(f"{X[~found].ravel()[0]!r} is none of the categories")
    return (found[..., None] & (at[..., None] == np.arange(len(cats)))).astype(np.float32)


# ---- maps


def _map_type(c: InferContext) -> MapType:
    t = c.types[0]
    if not isinstance(t, MapType):
        raise c.error(f"X has the type {t}, expected a map")
    return t


CASTS: dict[str, tuple[DType, Callable[[Any], Any], Any]] = {
    "TO_FLOAT": (F32, float, 0.0),
    "TO_INT64": (I64, int, 0),
    "TO_STRING": (STR, str, "0"),
}


def _infer_cast_map(c: InferContext) -> TensorType:
    _map_type(c)
    choice(c, "cast_to", tuple(CASTS))
    sparse = choice(c, "map_form", ("DENSE", "SPARSE")) == "SPARSE"
    return TensorType(CASTS[c.attr("cast_to")][0], checked(c, (1, c.attr("max_map") if sparse else c.symbol())))


@op("cast_map", onnx=Onnx("CastMap", ML), infer=_infer_cast_map, traits=("host",))
def cast_map(X, *, cast_to="TO_FLOAT", map_form="DENSE", max_map=1):
    """The values of a map in the order of its keys as one row; SPARSE: each at the column that its key says, zeros between."""
    dtype, convert, zero = CASTS[cast_to]
    if map_form == "DENSE":
        return np.array([convert(X[k]) for k in sorted(X)], dtype.np).reshape(1, -1)
    out = np.full((1, max_map), zero, dtype.np)
    for key, value in X.items():
        if not 0 <= key < max_map:
            raise ValueError(f"the key {key} is out of range for max_map = {max_map}")
        out[0, key] = convert(value)
    return out


def _infer_dict_vectorizer(c: InferContext) -> TensorType:
    t = _map_type(c)
    name = one_of(c, "int64_vocabulary", "string_vocabulary")
    if (name == "string_vocabulary") != (t.key == STR) or not isinstance(t.value, TensorType):
        raise c.error(f"{name} does not fit {t}")
    return TensorType(t.value.dtype, (1, len(c.attr(name))))


@op("dict_vectorizer", onnx=Onnx("DictVectorizer", ML), infer=_infer_dict_vectorizer, traits=("host",))
def dict_vectorizer(X, *, int64_vocabulary=None, string_vocabulary=None):
    """The values of a map in the order of the vocabulary as one row, zero where a key is missing. Raises KeyError for a key that
    the vocabulary lacks."""
    words: Sequence[Any] = string_vocabulary or int64_vocabulary or ()
    unknown = set(X) - set(words)
    if unknown:
        raise KeyError(f"the vocabulary has no {sorted(unknown)[0]!r}")
    some = next(iter(X.values()), np.float32(0))
    dtype = np.dtype(object) if isinstance(some, str) else np.asarray(some).dtype
    zero = "" if dtype.kind == "O" else dtype.type(0)
    return np.array([[X.get(w, zero) for w in words]], dtype)


def _infer_zip_map(c: InferContext) -> Type:
    name = one_of(c, "classlabels_int64s", "classlabels_strings")
    want_rank(c, 0, 1, 2)
    shape = c.shape(0)
    if shape is not None and isinstance(shape[-1], int) and shape[-1] != len(c.attr(name)):
        raise c.error(f"{name} has {len(c.attr(name))} entries for {c.t(0)}, expected one a column")
    return SequenceType(MapType(STR if name == "classlabels_strings" else I64, TensorType(F32, ())))


@op("zip_map", onnx=Onnx("ZipMap", ML), infer=_infer_zip_map, dtypes={"X": {F32}}, traits=("host", "repacking"))
def zip_map(X, *, classlabels_int64s=None, classlabels_strings=None):
    """One map from label to value, a Python number, for each row."""
    labels = classlabels_strings or classlabels_int64s
    rows: list[Mapping[Any, float]] = [dict(zip(labels, row, strict=True)) for row in (X if X.ndim == 2 else X[None]).tolist()]
    return rows
