"""Casts to another operand's type and linear quantization against their references."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.ops import cast as _cast  # noqa: F401  # registers the operators
from graphmill.ir.ops import quant as _quant  # noqa: F401
from graphmill.ir.symbols import symbol
from graphmill.ir.types import DTYPES, F32, U8, TensorType

from .harness import assert_close, check_native, make_node, reference, run_kernel


@pytest.mark.parametrize("name", ["cast_like", "quantize_linear", "dequantize_linear", "dynamic_quantize_linear"])
def test_examples(name):
    share = check_native(name)
    assert share.served
    assert all("strings" in r or "do not divide" in r for r in share.refused), share


NUMBERS = [d for d in DTYPES.values() if d.kind not in ("complex", "string")]


@pytest.mark.parametrize("source", NUMBERS, ids=str)
def test_casts_between_types(source):
    values = np.array([0, 1, 2, 3, 1.5, -1, -2, 0.4, 6, 100, -7.6, 0.001, 1e-3, 127])
    if source.kind == "uint" or source.name == "bool":
        values = np.abs(values)
    if source.is_integer:
        info = ml_dtypes.iinfo(source.np)
        values = np.clip(values, int(info.min), int(info.max))
    x = values.astype(np.float32).astype(source.np)
    if source.is_float:
        x = np.concatenate([x, np.float32([np.nan, np.inf, -np.inf]).astype(source.np)])
    for to in NUMBERS[NUMBERS.index(source) % 5 :: 5]:  # a fifth of the pairs, since each compiles a kernel
        finite = x[np.isfinite(x.astype(np.float32))] if source.is_float and to.is_integer else x
        (want,) = reference(OPS["cast"], [finite], {"to": to})
        (got,) = run_kernel(make_node("cast", [finite], {"to": to}), [finite])
        assert_close(got, want, 0, 0, f"{source} to {to}")


def rand(*shape, lo=-300, hi=300):
    return np.random.default_rng(shape).uniform(lo, hi, shape).astype(np.float32)


def check(name, operands, results=1, types=None, constants=(), **attrs):
    want = reference(OPS[name], operands, attrs, results)
    node = make_node(name, operands, attrs, results, types=types, constants=constants)
    for g, w in zip(run_kernel(node, operands, [w.shape for w in want]), want, strict=True):
        assert_close(g, w, 0, 0)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_per_axis(axis):
    x = rand(3, 4, 37, 5)
    n = x.shape[axis]
    scale, zero = rand(n, lo=0.5, hi=4), np.arange(n).astype(np.uint8)
    check("quantize_linear", [x, scale, zero], axis=axis)
    check("quantize_linear", [x, scale, None], axis=axis, output_dtype=DTYPES["f8e4m3fn"])
    q = (x.astype(np.int32) % 256).astype(np.uint8)
    check("dequantize_linear", [q, scale, zero], axis=axis)
    s = symbol("s")
    t = TensorType(U8, tuple(s if a == 2 else d for a, d in enumerate(x.shape)))
    p = s if axis in (2,) else n
    check("dequantize_linear", [q, scale, zero], axis=axis, types=[t, TensorType(F32, (p,)), TensorType(U8, (p,))])


def test_channels_last():
    x, scale, zero = rand(2, 6, 5, 7), rand(6, lo=0.5, hi=4), np.arange(6).astype(np.uint8)
    types = [TensorType(F32, x.shape, channels_last(4)), TensorType(F32, (6,)), TensorType(U8, (6,))]
    check("quantize_linear", [x, scale, zero], types=types)


@pytest.mark.parametrize(("axis", "block"), [(0, 3), (1, 4), (2, 16), (-1, 2)])
def test_blocked(axis, block):
    x = rand(6, 8, 32, lo=-20, hi=20)
    shape = [d // block if a == axis % 3 else d for a, d in enumerate(x.shape)]
    scale, zero = rand(*shape, lo=1, hi=3), rand(*shape, lo=-3, hi=3).astype(ml_dtypes.int4)
    check("quantize_linear", [x, scale, zero], axis=axis, block_size=block)
    check("dequantize_linear", [x.astype(np.int8).astype(ml_dtypes.int4), scale, zero], axis=axis, block_size=block)


def test_quantize_extremes():
    x = np.float32([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.5, 1.5, -0.5, 0])
    for zero in (np.int8(3), np.uint8(200), np.int16(-5), np.uint16(7)):
        check("quantize_linear", [x, np.float32(1), zero])
        check("quantize_linear", [x, np.float32(0), zero])


@pytest.mark.parametrize("shape", [(0,), (1,), (), (17,), (3, 50), (1000,)])
def test_dynamic(shape):
    check("dynamic_quantize_linear", [np.asarray(rand(*shape))], 3)
    check("dynamic_quantize_linear", [np.abs(np.asarray(rand(*shape)))], 3)
