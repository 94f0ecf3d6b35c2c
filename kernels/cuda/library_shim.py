"""Calls of libraries (library.py) on the CPU, by numpy: the same words, the same memory, sums in f32 (f64 for f64)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np

from ...ir.types import DTYPES, F64, DType
from .library import Declaration, read
from .watch import Array


class LibraryCall:
    """A text of library.py as what can be run like a kernel of the shim."""

    def __init__(self, text: str):
        self._declared = read(text)
        self._run = _CALLS[self._declared.library, self._declared.what]

    def __call__(self, words: np.ndarray, blocks: int, *, backwards: bool = False, memory: Sequence[Array] | None = None) -> None:
        """Computes what the call would; nothing without blocks. A library's order of sums is its own, whatever `backwards`. Where
        `memory` says what was written, all of the arrays that the call is given is taken as written."""
        given = words.tolist()
        assert len(given) == self._declared.words, f"{len(given)} words, expected {self._declared.words}"
        if blocks:
            with np.errstate(all="ignore"):
                self._run(self._declared, given)
        for a in memory or ():
            if a.defined is not None and any(a.address <= w < a.address + a.nbytes for w in given):
                a.defined[:] = 1


def view(address: int, shape: Sequence[int], steps: Sequence[int], dtype: DType) -> np.ndarray:
    """Memory as an array of this shape, with so many elements between neighbours."""
    if 0 in shape:
        return np.empty(shape, dtype.np)
    n = 1 + sum((d - 1) * s for d, s in zip(shape, steps, strict=True))
    raw = np.ctypeslib.as_array((ctypes.c_uint8 * (n * dtype.itemsize)).from_address(address)).view(dtype.np)
    return np.lib.stride_tricks.as_strided(raw, shape, [s * dtype.itemsize for s in steps])


def _wide(a: np.ndarray, dtype: DType) -> np.ndarray:
    """What is computed with: f32, or f64."""
    return a.astype(np.float64 if dtype is F64 else np.float32)


_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "relu": lambda x: np.where(x < 0, x.dtype.type(0), x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
}


def _store(to: np.ndarray, sums: np.ndarray, d: Declaration, words: list[int], channel: Sequence[int], dtype: DType) -> None:
    """activation(alpha * sums + beta * addend + bias), rounded once; `channel` is the shape that makes the bias broadcast."""
    wide = sums.dtype.type
    out = sums * wide(float.fromhex(d["alpha"]))
    if "addend" in d.fields:
        steps = [s // dtype.itemsize for s in to.strides]
        out = out + wide(float.fromhex(d["beta"])) * _wide(view(d.address("addend", words), to.shape, steps, dtype), dtype)
    if "bias" in d.fields:
        bias = view(d.address("bias", words), [math.prod(channel)], [1], dtype)
        out = out + _wide(bias, dtype).reshape(channel)
    to[...] = _ACTIVATIONS[d["activation"]](out).astype(dtype.np)


def _matmul(d: Declaration, words: list[int]) -> None:
    dtype = DTYPES[d["type"]]
    rows, columns, depth, batches, a_line, b_line, a_batch, b_batch = d.sizes(words)
    a_steps, b_steps = ([1, line] if t else [line, 1] for t, line in zip(d.ints("transpose"), (a_line, b_line), strict=True))
    a = view(d.address("a", words), [batches, rows, depth], [a_batch, *a_steps], dtype)
    b = view(d.address("b", words), [batches, depth, columns], [b_batch, *b_steps], dtype)
    y = view(d.address("y", words), [batches, rows, columns], [rows * columns, columns, 1], dtype)
    _store(y, _wide(a, dtype) @ _wide(b, dtype), d, words, [1, 1, columns], dtype)


def _conv(d: Declaration, words: list[int]) -> None:
    """Channels-last images by weights [out channels, height, width, channels of a group]."""
    dtype = DTYPES[d["type"]]
    n, c, per_group, k, h, w, oh, ow, kh, kw, top, left = d.sizes(words)
    (sh, sw), (dh, dw) = d.ints("strides"), d.ints("dilations")
    x = _wide(view(d.address("x", words), [n, h, w, c], _dense([n, h, w, c]), dtype), dtype)
    weight = _wide(view(d.address("w", words), [k, kh, kw, per_group], _dense([k, kh, kw, per_group]), dtype), dtype)
    bottom, right = (oh - 1) * sh + (kh - 1) * dh + 1, (ow - 1) * sw + (kw - 1) * dw + 1
    padded = np.zeros((n, max(bottom, top + h), max(right, left + w), c), x.dtype)
    padded[:, top : top + h, left : left + w] = x
    sums, groups = np.zeros((n, oh, ow, k), x.dtype), c // per_group
    for i in range(kh):
        for j in range(kw):
            seen = padded[:, i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
            for g in range(groups):
                outer = slice(g * k // groups, (g + 1) * k // groups)
                sums[..., outer] += seen[..., g * per_group : (g + 1) * per_group] @ weight[outer, i, j].T
    y = view(d.address("y", words), [n, oh, ow, k], _dense([n, oh, ow, k]), dtype)
    _store(y, sums, d, words, [1, 1, 1, k], dtype)


def _dense(shape: list[int]) -> list[int]:
    return [math.prod(shape[a + 1 :]) for a in range(len(shape))]


def _attention(d: Declaration, words: list[int]) -> None:
    """Rows that no key may be seen from are zero, as without keys."""
    dtype = DTYPES[d["type"]]
    n, heads, groups, queries, keys, depth, width, q_at, k_at, v_at, *steps = d.sizes(words)
    places = [[*steps[3 * i : 3 * i + 3], 1] for i in range(5)]
    shapes = [[n, heads, queries, depth], [n, groups, keys, depth], [n, groups, keys, width], [n, heads, queries, width]]
    begins = [d.address(name, words) + at * dtype.itemsize for name, at in zip("qkvy", (q_at, k_at, v_at, 0), strict=True)]
    q, k, v, y = (view(begin, shape, at, dtype) for begin, shape, at in zip(begins, shapes, places, strict=False))
    k, v = (np.repeat(_wide(a, dtype), heads // groups, 1) for a in (k, v))
    scores = _wide(q, dtype) @ k.swapaxes(2, 3) * (float.fromhex(d["scale"]) if "scale" in d.fields else depth**-0.5)
    if "mask" in d.fields:
        scores = scores + _wide(view(d.address("mask", words), [n, heads, queries, keys], places[4], dtype), dtype)
    if d["causal"] == "1":
        scores = np.where(np.tri(queries, keys, dtype=bool), scores, -np.inf)
    top = scores.max(3, keepdims=True, initial=-np.inf)
    weights = np.where(scores == -np.inf, 0, np.exp(scores - top)).astype(scores.dtype)
    sums = weights.sum(3, keepdims=True)
    y[...] = np.where(sums == 0, 0, weights @ v / sums).astype(dtype.np)


_CALLS: dict[tuple[str, str], Callable[[Declaration, list[int]], None]] = {
    ("cublaslt", "matmul"): _matmul, ("cudnn", "conv"): _conv, ("cudnn", "attention"): _attention,
}  # fmt: skip
