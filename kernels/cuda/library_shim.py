"""Calls of libraries (library.py) on the CPU, by numpy: the same words, the same memory, sums in f32 (f64 for f64)."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np

from ...ir.types import DTYPES, F64, DType
from .library import Declaration, read


class LibraryCall:
    """A text of library.py as what can be run like a kernel of the shim."""

    def __init__(self, text: str):
        self._declared = read(text)
        self._run = _CALLS[self._declared.library, self._declared.what]

    def __call__(self, words: np.ndarray, blocks: int, *, backwards: bool = False) -> None:
        """Computes what the call would; nothing without blocks. A library's order of sums is its own, whatever `backwards`."""
        given = words.tolist()
        assert len(given) == self._declared.words, f"{len(given)} words, expected {self._declared.words}"
        if blocks:
            with np.errstate(all="ignore"):
                self._run(self._declared, given)


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


_CALLS: dict[tuple[str, str], Callable[[Declaration, list[int]], None]] = {("cublaslt", "matmul"): _matmul}
