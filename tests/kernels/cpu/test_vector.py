"""The names of kernel texts against numpy: conversions, arithmetic at its edges, functions to the last places."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.scalar import arg, binary
from graphmill.ir.scalar_numpy import evaluate
from graphmill.ir.types import DTYPES, dtype_of
from graphmill.kernels.cpu import objects, vector
from graphmill.kernels.spec import Call, KernelSource, Launch

from .harness import aligned, aligned_empty, assert_close, launch_kernel

INF, NAN = np.inf, np.nan


def apply(expression: str, result: str, *arrays: np.ndarray) -> np.ndarray:
    """The expression over elements a, b, ... of arrays of one size."""
    names = "abcd"[: len(arrays)]
    loads = "\n".join(
        f"        {n} = ld_{dtype_of(x)}(param(p, {i}), i)" for i, (n, x) in enumerate(zip(names, arrays, strict=True))
    )
    k = len(arrays)
    store = f"        st_{result}(param(p, {k}), i, {expression})"
    text = f"def kernel(p, tile, ntiles):\n    for i in range(param(p, {k + 2})):\n{loads}\n{store}\n"
    out = aligned_empty(arrays[0].shape, DTYPES[result].np)
    source = KernelSource(text, lambda call: Launch((arrays[0].size,)))
    launch_kernel(source, Call([x.shape for x in arrays], [out.shape]), [aligned(x) for x in arrays], [out])
    return out


def test_every_f16_is_loaded_and_stored():
    x = np.arange(65536, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(apply("a", "f32", x), x.astype(np.float32))
    np.testing.assert_array_equal(apply("a", "f16", x), x)


def awkward_floats() -> np.ndarray:
    """f32 values around all rounding boundaries of f16 and bf16, denormals, infinities and NaN."""
    halves = np.arange(0, 31744, 7, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (halves[:-1] + halves[1:]) / 2
    near = [middle, np.nextafter(middle, np.float32(INF)), np.nextafter(middle, np.float32(0))]
    random = np.random.default_rng(0).integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    special = np.float32(
        [0, 65504, 65519.99, 65520, 1e38, 3.4e38, INF, NAN, 2.0**-24, 2.0**-25, 1.0001 * 2.0**-25, 2.0**-14, 1e-45]
    )
    x = np.concatenate([*near, random, special])
    return np.concatenate([x, -x])


SMALL_FLOATS = [d for d in DTYPES.values() if d.is_float and d.bits <= 8]


@pytest.mark.parametrize("dtype", SMALL_FLOATS, ids=str)
def test_every_small_float_is_loaded_and_stored(dtype):
    codes = np.arange(1 << dtype.bits, dtype=np.uint8)
    x = codes.view(dtype.np)
    np.testing.assert_array_equal(apply("a", "f32", x), x.astype(np.float32))
    real = ~np.isnan(x.astype(np.float32))
    np.testing.assert_array_equal(apply("a", dtype.name, x).view(np.uint8)[real], codes[real])


@pytest.mark.parametrize("dtype", SMALL_FLOATS, ids=str)
def test_f32_is_rounded_to_small_floats(dtype):
    codes = np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.np).astype(np.float32)
    codes = np.unique(codes[np.isfinite(codes)])
    middle = (codes[:-1] + codes[1:]) / 2
    near = [codes, middle, np.nextafter(middle, np.float32(INF)), np.nextafter(middle, np.float32(-INF)), codes[-1:] * 1.07]
    x = np.concatenate([*near, awkward_floats()])
    with np.errstate(all="ignore"):
        want = x.astype(dtype.np)
    np.testing.assert_array_equal(apply("a", dtype.name, x).view(np.uint8), want.view(np.uint8))
    np.testing.assert_array_equal(apply(f"to_{dtype}(a)", "f32", x), want.astype(np.float32))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_f32_is_rounded_to_even(dtype):
    x = awkward_floats()
    with np.errstate(all="ignore"):
        want = x.astype(DTYPES[dtype].np)
    np.testing.assert_array_equal(apply("a", dtype, x).astype(np.float32), want.astype(np.float32))
    np.testing.assert_array_equal(apply(f"to_{dtype}(a)", "f32", x), want.astype(np.float32))


def test_f16_without_conversion_instructions(monkeypatch):
    """The integer forms give the same, and call nothing."""
    monkeypatch.setattr(vector, "HALF", False)
    monkeypatch.setattr(vector, "_MADE", {})
    text = """
def kernel(p, tile, ntiles):
    for i in range(param(p, 3)):
        st_f16(param(p, 1), i, ld_f32(param(p, 0), i))
        st_f32(param(p, 0), i, ld_f16(param(p, 1), i))
"""
    data = objects.compile_kernel(text)
    assert objects.undefined_symbols(data) == set()
    monkeypatch.setattr(objects, "kernel_address", lambda s: objects.load(data, objects.symbol_name(objects.object_key(text))))
    import sys

    monkeypatch.setattr(sys.modules[launch_kernel.__module__], "kernel_address", objects.kernel_address)
    x = awkward_floats()
    with np.errstate(all="ignore"):
        want = x.astype(np.float16)
    a, out = aligned(x), aligned_empty(x.shape, np.dtype(np.float16))
    launch_kernel(KernelSource(text, lambda call: Launch((x.size,))), Call([x.shape], [x.shape]), [a], [out])
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(a, want.astype(np.float32))


def test_f64_is_rounded_to_f16_once():
    x = np.float64(
        [1 + 2**-11, 1 + 2**-11 + 2**-40, 1 + 2**-11 - 2**-40, 65519.9999999999, 65520, 1e300, NAN, -INF, 2**-25 + 2**-60, 0.1]
    )
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(apply("to_f16(a)", "f16", x), x.astype(np.float16))


@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("to", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
def test_floats_become_integers_modulo_their_width(source, to):
    x = np.array([0, 0.9, -0.9, 1.5, -1.5, 127, 128, 255, 256, -129, 65536.5, 2**31, -(2.0**31), 3e9, -3e9, 2.0**32 + 512,
                  1e15, -1e15],
                 DTYPES[source].np)  # fmt: skip
    want = x.astype(np.int64).astype(DTYPES[to].np)
    np.testing.assert_array_equal(apply(f"to_{to}(a)", to, x), want)
    outside = np.array([NAN, INF, -INF, 1e30, -1e30], x.dtype)
    got = apply(f"to_{to}(a)", to, outside)
    assert np.all((got == 0) if DTYPES[to].bits < 64 else np.isin(got.astype(np.uint64), [2**63, 0]) | (got == got[0]))
    np.testing.assert_array_equal(got, apply(f"to_{to}(a)", to, outside))


def test_u64_takes_the_upper_half():
    x = np.float64([2.0**63, 2.0**64 - 2048, 5])
    np.testing.assert_array_equal(apply("to_u64(a)", "u64", x), np.uint64([2**63, 2**64 - 2048, 5]))


@pytest.mark.parametrize("dtype", ["i4", "u4", "i2", "u2"])
def test_small_integers_lie_as_ml_dtypes_has_them(dtype):
    t = DTYPES[dtype].np
    info = ml_dtypes.iinfo(t)
    x = np.arange(info.min, info.max + 1).astype(t)
    wide = x.astype(np.int8) if info.min else x.astype(np.uint8)
    np.testing.assert_array_equal(apply("a", str(dtype_of(wide)), x), wide)
    np.testing.assert_array_equal(
        apply(f"to_{dtype}(a)", dtype, np.arange(-8, 8, dtype=np.int32)), np.arange(-8, 8).astype(np.int8).astype(t)
    )
    assert apply("a", dtype, x).view(np.uint8).tolist() == x.view(np.uint8).tolist()


@pytest.mark.parametrize("t", [np.int8, np.int32, np.int64, np.uint8, np.uint64])
def test_integer_division_never_traps(t):
    info = np.iinfo(t)
    pairs = [
        (a, b)
        for a in (info.min, info.min + 1, 0, 7, info.max)
        for b in (0, 1, 2, 3, info.max, *((-1, -2, info.min) if info.min else ()))
    ]
    a, b = (np.array(x, t) for x in zip(*pairs, strict=True))
    for fn in ("div", "floordiv", "mod", "fmod"):
        want = evaluate(binary(fn, arg(0, dtype_of(a)), arg(1, dtype_of(a))), [a, b])
        np.testing.assert_array_equal(apply(f"{fn}(a, b)", str(dtype_of(a)), a, b), want, err_msg=fn)


def test_shifts_by_any_number():
    a = np.repeat(np.int32([-5, 5, 2**31 - 1]), 7)
    b = np.tile(np.int32([-1, 0, 1, 31, 32, 33, 1000]), 3)
    inside = (b >= 0) & (b < 32)
    np.testing.assert_array_equal(apply("shl(a, b)", "i32", a, b), np.where(inside, a << np.where(inside, b, 0), 0))
    np.testing.assert_array_equal(apply("shr(a, b)", "i32", a, b), a >> np.where(inside, b, 31))


@pytest.mark.parametrize("t", [np.float32, np.float64])
def test_extremes_pass_nan_on(t):
    v = np.array([1, -1, INF, -INF, NAN, 0], t)
    a, b = np.repeat(v, 6), np.tile(v, 6)
    name = str(dtype_of(v))
    np.testing.assert_array_equal(apply("maximum(a, b)", name, a, b), np.maximum(a, b))
    np.testing.assert_array_equal(apply("minimum(a, b)", name, a, b), np.minimum(a, b))


def test_float_remainders_are_numpys():
    v = np.float32([0, -0.0, 1, -1, 2.5, -2.5, 7, -7, INF, -INF, NAN, 1e30])
    a, b = np.repeat(v, v.size), np.tile(v, v.size)
    with np.errstate(all="ignore"):
        for name, fn in (("mod", np.mod), ("fmod", np.fmod), ("floordiv", np.floor_divide)):
            np.testing.assert_array_equal(apply(f"{name}(a, b)", "f32", a, b), fn(a, b), err_msg=name)


def _sweep(lo: float, hi: float) -> np.ndarray:
    x = np.linspace(lo, hi, 200001).astype(np.float32)
    random = np.random.default_rng(1).integers(0, 2**32, 100000, dtype=np.uint32).view(np.float32)
    tiny = np.float32([1e-45, -1e-45, 1e-39, -1e-39, 1.2e-38, 1e-30, -1e-30, 1e-8, -1e-8])
    return np.concatenate([x, random, tiny, np.float32([0, -0.0, 1, -1, INF, -INF, NAN])])


def _erf64(x: np.ndarray) -> np.ndarray:
    import math

    return np.array([math.erf(v) for v in x])


# Functions, the range swept evenly, and how many units in the last place the result may be off.
FUNCTIONS = [("exp", np.exp, -105, 90, 2), ("log", np.log, 0, 10, 2), ("log1p", np.log1p, -1, 10, 3),
             ("expm1", np.expm1, -20, 90, 3), ("tanh", np.tanh, -11, 11, 4), ("erf", _erf64, -5, 5, 2), ("sqrt", np.sqrt, 0, 10, 1),
             ("sin", np.sin, -100, 100, 2), ("cos", np.cos, -100, 100, 2)]  # fmt: skip


@pytest.mark.parametrize(("name", "exact", "lo", "hi", "ulps"), FUNCTIONS, ids=[f[0] for f in FUNCTIONS])
def test_functions_to_the_last_places(name, exact, lo, hi, ulps):
    x = _sweep(lo, hi)
    with np.errstate(all="ignore"):
        want = exact(x.astype(np.float64))
        rounded = want.astype(np.float32)
    got = apply(f"{name}(a)", "f32", x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    finite = np.isfinite(rounded)
    # Next to overflow a result may round either way.
    overflow = np.abs(want) > 3.4028e38
    np.testing.assert_array_equal(got[~finite & ~overflow & ~np.isnan(got)], rounded[~finite & ~overflow & ~np.isnan(got)])
    assert np.all(np.isinf(got[np.isinf(want)]) & (np.sign(got[np.isinf(want)]) == np.sign(want[np.isinf(want)])))
    ok = finite & np.isfinite(got)
    assert np.all(ok | ~finite | overflow)
    unit = np.spacing(np.abs(rounded[ok])).astype(np.float64)
    off = np.abs(got[ok].astype(np.float64) - want[ok]) / unit
    assert off.max() <= ulps, f"{name}({x[ok][off.argmax()]!r}) is {off.max():.2f} units off"
    zero = np.float32([0.0, -0.0])
    if name in ("sin", "tanh", "erf", "expm1", "log1p", "sqrt"):
        np.testing.assert_array_equal(np.signbit(apply(f"{name}(a)", "f32", zero)), [False, True])


def test_softmax_exp_below_zero():
    x = np.linspace(-87, 0, 300001).astype(np.float32)
    want = np.exp(x.astype(np.float64))
    off = np.abs(apply("softmax_exp(a)", "f32", x) - want) / np.spacing(want.astype(np.float32))
    assert off[x > -20].max() < 1.6 and off.max() < 5
    edges = np.float32([0, -0.0, -88, -1e30, -INF, NAN])
    np.testing.assert_array_equal(apply("softmax_exp(a)", "f32", edges), np.float32([1, 1, 0, 0, 0, NAN]))


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_angles_of_any_size(name):
    """numpy's f64 reduces every f32 exactly; multiples of pi / 2 leave the least behind."""
    random = np.random.default_rng(0).integers(0, 2**32, 200000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([random[np.isfinite(random)], np.float32(np.arange(1, 20000) * np.pi / 2), np.float32([16367173 * 2.0**72])])
    want = getattr(np, name)(x.astype(np.float64))
    error = np.abs(apply(f"{name}(a)", "f32", x) - want) / np.spacing(np.abs(want).astype(np.float32))
    assert error.max() < (5 if name == "tan" else 2)
    special = np.float32([0.0, -0.0, INF, -INF, NAN])
    got = apply(f"{name}(a)", "f32", special)
    assert np.isnan(got[2:]).all()
    assert got[:2].tolist() == ([1, 1] if name == "cos" else [0, 0])
    assert name == "cos" or np.signbit(got[1])


@pytest.mark.parametrize("name", ["tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"])
@pytest.mark.parametrize("t", [np.float32, np.float64])
def test_functions_of_the_c_library(name, t):
    x = np.array([0, 0.3, -0.7, 1, -1, 1.5, 20, -20, INF, -INF, NAN], t)
    numpy_name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}
    with np.errstate(all="ignore"):
        assert_close(apply(f"{name}(a)", str(dtype_of(x)), x), getattr(np, numpy_name.get(name, name))(x))


def test_bits_are_kept():
    x = np.float32([1, -2, NAN])
    np.testing.assert_array_equal(apply("bits_f32_i32(a)", "i32", x), x.view(np.int32))
    np.testing.assert_array_equal(apply("bits_u16_bf16(a)", "bf16", np.uint16([0x3F80])).astype(np.float32), [1])


def test_vectors():
    text = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    y = param(p, 1)
    v = ldv_f32(x, 0)
    st_f32(y, 0, hsum(v))
    st_f32(y, 1, hmax(v))
    st_f32(y, 2, hmin(v))
    st_f32(y, 3, hprod(head(v, 3, f32(1))))
    st_f32(y, 4, lane(v, 2))
    m = alloc(256)
    stv_f32(m, 0, add(v, f32(100)))
    stm_f32(m, 0, 2, v)
    st_f32(y, 5, ld_f32(m, 1))
    st_f32(y, 6, ld_f32(m, 2))
    st_f32(y, 7, hsum(ldm_f32(x, 0, 3)))
    st_f32(y, 8, hsum(to_f32(ldm_i8(param(p, 0), 0, 1))))
    memset(m, 0, 64)
    memcpy(m, x, 8)
    st_f32(y, 9, hsum(ldv_f32(m, 0)))
    stv_f16(m, 0, exp(v))
    st_f32(y, 10, ld_f16(m, 1))
"""
    x, y = aligned(np.arange(1, vector.LANES + 1, dtype=np.float32)), aligned_empty((11,), np.dtype(np.float32))
    launch_kernel(KernelSource(text, lambda call: Launch(())), Call([x.shape], [y.shape]), [x], [y])
    want = [x.sum(), x.max(), x.min(), 6, 3, 2, 103, 6, x.view(np.int8)[0], 3, np.exp(np.float32(2)).astype(np.float16)]
    np.testing.assert_array_equal(y, np.float32(want))
