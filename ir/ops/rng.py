"""Random numbers. A seed gives the same numbers on every run of graphmill, though not those of another implementation."""

from __future__ import annotations

import numpy as np

from ..op import InferContext, Onnx, dtype_attrs, ex, op
from ..types import BOOL, F32, F64, FLOATS, I32, I64, NUMERIC, DType, TensorType, dtype_of
from .contents import COMMON, tensor, want_rank
from .examples import rand

DTYPE = dtype_attrs("dtype")


def _generator(seed: float | None) -> np.random.Generator:
    """The source of numbers for a seed (ONNX gives it as a float): the bits of the float seed it; without one it is fresh."""
    return np.random.default_rng(None if seed is None else int(np.float32(seed).view(np.uint32)))


def _wanted(c: InferContext, allowed: frozenset[DType] = FLOATS, default: DType | None = None) -> DType:
    dtype = c.attr("dtype") or default
    if dtype not in allowed:
        raise c.error(f"the element type is {dtype}; expected one of {', '.join(sorted(map(str, allowed)))}")
    return dtype  # type: ignore[return-value]


def _infer_shaped(c: InferContext) -> TensorType:
    return tensor(c, c.attr("shape"), _wanted(c))


def _infer_like(c: InferContext) -> TensorType:
    return c.t(0).with_(dtype=_wanted(c, default=c.t(0).dtype), layout=None)


def _normal(shape: tuple[int, ...], dtype: DType, mean: float, scale: float, seed: float | None) -> np.ndarray:
    return np.asarray(_generator(seed).normal(mean, abs(scale), shape)).astype(dtype.np)


def _uniform(shape: tuple[int, ...], dtype: DType, low: float, high: float, seed: float | None) -> np.ndarray:
    return np.asarray(low + (high - low) * _generator(seed).random(shape)).astype(dtype.np)


@op(
    "random_normal",
    onnx=Onnx("RandomNormal", adapt=DTYPE),
    infer=_infer_shaped,
    traits=("random",),
    examples=lambda: [ex(shape=(2, 3)), ex(shape=(2,), dtype=F64, seed=3.0, mean=1.0, scale=2.0), ex(shape=(0, 2))],
)
def random_normal(*, shape, dtype=F32, mean=0.0, scale=1.0, seed=None):
    """Normal numbers of the given mean and standard deviation."""
    return _normal(tuple(shape), dtype, mean, scale, seed)


@op(
    "random_uniform",
    onnx=Onnx("RandomUniform", adapt=DTYPE),
    infer=_infer_shaped,
    traits=("random",),
    examples=lambda: [ex(shape=(2, 3)), ex(shape=(2,), dtype=F64, seed=3.0, low=-1.0, high=2.0), ex(shape=(0, 2))],
)
def random_uniform(*, shape, dtype=F32, low=0.0, high=1.0, seed=None):
    """Uniform numbers in [low, high)."""
    return _uniform(tuple(shape), dtype, low, high, seed)


@op(
    "random_normal_like",
    onnx=Onnx("RandomNormalLike", adapt=DTYPE),
    infer=_infer_like,
    traits=("random",),
    dtypes={"input": COMMON},
    examples=lambda: [ex(rand(2, 3)), ex(np.zeros((2, 0), np.int32), dtype=F64), ex(rand(2), seed=1.0, scale=0.5)],
)
def random_normal_like(input, *, dtype=None, mean=0.0, scale=1.0, seed=None):
    """Normal numbers in the shape of `input`, and in its element type by default."""
    return _normal(input.shape, dtype or dtype_of(input), mean, scale, seed)


@op(
    "random_uniform_like",
    onnx=Onnx("RandomUniformLike", adapt=DTYPE),
    infer=_infer_like,
    traits=("random",),
    dtypes={"input": COMMON},
    examples=lambda: [ex(rand(2, 3)), ex(np.zeros((2, 0), np.int32), dtype=F64), ex(rand(2), seed=1.0, low=-1.0)],
)
def random_uniform_like(input, *, dtype=None, low=0.0, high=1.0, seed=None):
    """Uniform numbers in [low, high) in the shape of `input`, and in its element type by default."""
    return _uniform(input.shape, dtype or dtype_of(input), low, high, seed)


def _infer_bernoulli(c: InferContext) -> TensorType:
    return c.t(0).with_(dtype=_wanted(c, NUMERIC | {BOOL}, c.t(0).dtype), layout=None)


@op(
    "bernoulli",
    onnx=Onnx("Bernoulli", since=15, adapt=DTYPE),
    infer=_infer_bernoulli,
    traits=("random",),
    dtypes={"input": FLOATS},
    examples=lambda: [
        ex(rand(2, 3, lo=0, hi=1)),
        ex(rand(4, lo=0, hi=1), dtype=BOOL, seed=2.0),
        ex(np.zeros((0,), np.float64), dtype=I32),
    ],
)
def bernoulli(input, *, dtype=None, seed=None):
    """1 with the probability that `input` gives for the element, else 0."""
    return (_generator(seed).random(input.shape) < input.astype(np.float64)).astype((dtype or dtype_of(input)).np)


def _infer_multinomial(c: InferContext) -> TensorType:
    want_rank(c, 0, 2)
    batch = c.symbol() if c.shape(0) is None else c.shape(0)[0]  # type: ignore[index]
    return tensor(c, (batch, c.attr("sample_size")), _wanted(c, frozenset({I32, I64})))


@op(
    "multinomial",
    onnx=Onnx("Multinomial", since=7, adapt=DTYPE),
    infer=_infer_multinomial,
    traits=("random",),
    dtypes={"input": FLOATS},
    examples=lambda: [
        ex(rand(2, 3)),
        ex(rand(1, 4), sample_size=5, dtype=I64, seed=1.0),
        ex(np.zeros((0, 3), np.float32), sample_size=2),
    ],
)
def multinomial(input, *, sample_size=1, dtype=I32, seed=None):
    """`sample_size` classes for each row, drawn with replacement by the unnormalized log-probabilities in the row."""
    logits = input.astype(np.float64)
    weights = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
    ends = np.cumsum(weights, 1)
    draws = _generator(seed).random((len(input), sample_size)) * ends[:, -1:]
    below = np.zeros(draws.shape, np.int64)
    for row, (e, d) in enumerate(zip(ends, draws, strict=True)):
        below[row] = np.searchsorted(e, d, "right")
    return np.minimum(below, input.shape[1] - 1).astype(dtype.np)
