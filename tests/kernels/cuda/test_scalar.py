"""Every primitive of ir/scalar.py on every element type that it takes, as a CUDA kernel run by the shim, against numpy's result."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir import scalar
from graphmill.ir.scalar import Expr, arg, binary, bitcast, cast, const, unary, where
from graphmill.ir.scalar_numpy import evaluate
from graphmill.ir.types import BOOL, DTYPES, FLOATS, DType
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.text import declared, kernel
from graphmill.kernels.printer import Printer, supported

from ..cpu.harness import TOLERANCE, aligned, aligned_empty
from .harness import ARCHITECTURES, check_compiles, needs_nvrtc, needs_shim

TYPES = [d for d in DTYPES.values() if supported(d)]
WITHOUT_NAN = frozenset(DTYPES[n] for n in ("f6e2m3", "f6e3m2", "f4e2m1"))
FUNCTIONS = ["exp", "log", "log1p", "expm1", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh",
                    "acosh", "atanh", "erf"]  # fmt: skip
EXACT = ["neg", "abs", "sign", "sqrt", "floor", "ceil", "trunc", "round"]
ARITHMETIC = ["add", "sub", "mul", "div", "floordiv", "mod", "fmod", "min", "max"]
BITS = ["bitand", "bitor", "bitxor"]
SHIFTS = ["shl", "shr"]


@dataclass(frozen=True)
class Group:
    """Expressions over the same operands: one kernel. `near`: within a function's error."""

    name: str
    arrays: tuple[np.ndarray, ...]
    dtypes: tuple[DType, ...]
    labels: tuple[str, ...]
    exprs: tuple[Expr, ...]
    near: bool = False

    @functools.cached_property
    def text(self) -> str:
        printer, count = Printer(), len(self.dtypes)
        names = [printer.value(e, [f"v{k}" for k in range(count)]) for e in self.exprs]
        size = count + len(self.exprs)
        head = [f"i64 i = i64(blockIdx.x) * THREADS + threadIdx.x, n = p[{size}];", "if (i >= n) return;"]
        loads = [f"auto v{k} = ld_{d}(p[{k}], i);" for k, d in enumerate(self.dtypes)]
        stores = [f"st_{e.dtype}(p[{count + j}], i, {x});" for j, (e, x) in enumerate(zip(self.exprs, names, strict=True))]
        return kernel(128, size + 1, [*head, *loads, *declared(printer.lines), *stores])

    def run(self) -> list[np.ndarray]:
        n = self.arrays[0].size
        operands = [aligned(a) for a in self.arrays]
        out = [aligned_empty((n,), e.dtype.np) for e in self.exprs]
        words = np.array([*(a.ctypes.data for a in [*operands, *out]), n], np.int64)
        shim.load([self.text])[self.text](words, -(-n // 128))
        return out


# ---- operands ---------------------------------------------------------------------------------------------------


def values(d: DType) -> np.ndarray:
    """The edges of an element type, all of it where it is small, and some numbers."""
    random = np.random.default_rng(1)
    if d is BOOL:
        return np.array([False, True])
    if d.bits <= 8:
        return np.arange(1 << d.bits, dtype=np.uint8).view(d.np)
    bits = random.integers(0, 2**63, 300, dtype=np.uint64) * 2 + 1
    raw = bits.astype(f"u{d.itemsize}").view(d.np)
    if d.is_integer:
        info = np.iinfo(d.np)
        edges = [0, 1, 2, 3, 7, 31, 32, 63, 64, 100, info.max, info.max - 1, info.min, info.min + 1]
        signed = [-1, -2, -3, -7, -100] if info.min else []
        return np.concatenate([np.array([*edges, *signed], d.np), raw])
    info = ml_dtypes.finfo(d.np)
    edges = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 0.1, 0.999, 1.001, 7.0, 20.0, 88.0, 100.0, 104.0, 1e-3, 1e-8, 127.5, 255.9, 256.5,
             32768.0, 65519.0, 65520.0, 2.0**31, 2.0**32 + 4096, 2.0**62, np.pi / 2, info.max, info.tiny,
             info.smallest_subnormal, np.inf, np.nan]  # fmt: skip
    with np.errstate(all="ignore"):
        x = np.array(edges).astype(d.np)
        more = (random.standard_normal(300) * 4).astype(d.np)
    return np.concatenate([x, -x, raw, more])


def pairs(d: DType) -> tuple[np.ndarray, np.ndarray]:
    """Every edge with every other, and some pairs."""
    v = values(d)
    few = v[:64] if d.bits > 8 else v[:: max(1, v.size // 64)]
    a, b = np.repeat(few, few.size), np.tile(few, few.size)
    return np.concatenate([a, v]), np.concatenate([b, v[::-1]])


# ---- groups -----------------------------------------------------------------------------------------------------


def group(name: str, arrays: Sequence[np.ndarray], dtypes: Sequence[DType], exprs: dict[str, Expr], near: bool = False) -> Group:
    return Group(name, tuple(arrays), tuple(dtypes), tuple(exprs), tuple(exprs.values()), near)


def unary_groups(d: DType) -> list[Group]:
    x, fns = arg(0, d), [f for f in EXACT if d.is_float or f != "sqrt"]
    if d.name == "f8e8m0":  # of numbers without sign and zero
        fns.remove("sign")
    exprs = {f: unary(f, x) for f in fns} if d is not BOOL else {"not": ~x}
    if d.is_integer:
        exprs["bitnot"] = unary("bitnot", x)
    if d.is_float:
        exprs |= {f: scalar.test(f, x) for f in scalar.TEST}
    out = [group(f"{d} unary", [values(d)], [d], exprs)]
    if d in FLOATS:
        out.append(group(f"{d} functions", [values(d)], [d], {f: unary(f, x) for f in FUNCTIONS}, near=True))
    return out


def binary_groups(d: DType) -> list[Group]:
    x, y = arg(0, d), arg(1, d)
    fns = sorted(scalar.COMPARE)
    fns += sorted(scalar.LOGIC) if d is BOOL else ARITHMETIC
    fns += BITS + SHIFTS + ["pow"] * (d.bits >= 8) if d.is_integer else []
    exprs = {f: binary(f, x, y) for f in fns} | {"where": where(binary("lt", x, y), x, const(1, d))}
    out = [group(f"{d} binary", pairs(d), [d, d], exprs)]
    if d in FLOATS:
        out.append(group(f"{d} pow", pairs(d), [d, d], {"pow": binary("pow", x, y)}, near=True))
        powers = {f"pow {n}": binary("pow", x, const(n, d)) for n in (-1, 0.5, 1, 2, 3)}
        out.append(group(f"{d} powers", [values(d)], [d], powers, near=True))
    return out


def cast_groups(d: DType) -> list[Group]:
    x = arg(0, d)
    return [group(f"{d} cast", [values(d)], [d], {f"to {t}": cast(x, t) for t in TYPES if t is not d}),
            group(f"{d} bits", [values(d)], [d], {f"as {t}": bitcast(x, t) for t in TYPES if t.bits == d.bits and t is not d})]  # fmt: skip


@functools.cache
def groups() -> dict[str, Group]:
    """All groups, compiled in one program."""
    found = [g for d in TYPES for g in (*unary_groups(d), *binary_groups(d), *cast_groups(d)) if g.exprs]
    shim.load(g.text for g in found)
    return {g.name: g for g in found}


# ---- tests ------------------------------------------------------------------------------------------------------


def expected(e: Expr, arrays: Sequence[np.ndarray]) -> np.ndarray:
    if e.fn == "pow" and e.args[1].fn == "const":  # numpy takes the square root for a power of 0.5, also of -inf
        return evaluate(binary("pow", e.args[0], arg(1, e.dtype)), [arrays[0], np.full_like(arrays[0], e.args[1].value)])
    return np.asarray(evaluate(e, list(arrays)))


def right(e: Expr, arrays: Sequence[np.ndarray], got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Where a result has the bits that it must have."""
    ok = got.view(f"u{got.itemsize}") == want.view(f"u{want.itemsize}")
    if e.dtype.is_float:
        x, y = got.astype(np.float64), want.astype(np.float64)
        ok |= np.isnan(x) & np.isnan(y)
        # The sign of a zero: numpy's hangs on the type and the place; and NaN, which has none, becomes one in types without NaN.
        if e.fn in ("min", "max", "sign") or e.dtype in WITHOUT_NAN:
            ok |= (x == 0) & (y == 0)
    source = e.args[0].dtype
    if e.fn in ("cast", "bitcast") and source.is_float:
        wide = arrays[0].astype(np.float64)
        if e.fn == "cast" and e.dtype.is_integer:  # elsewhere ir/scalar.py does not say
            ok |= ~((wide > -(2.0**63)) & (wide < (2.0**64 if e.dtype.name == "u64" else 2.0**63)))
        if e.fn == "bitcast" and source.bits <= 16:  # of the bits of NaN some are lost in a register
            ok |= np.isnan(wide)
    return ok


NAMES = [f"{d} {kind}" for d in TYPES for kind in ("unary", "functions", "binary", "pow", "powers", "cast", "bits")
         if (d in FLOATS or kind not in ("functions", "pow", "powers"))]  # fmt: skip


@needs_shim
@pytest.mark.parametrize("name", NAMES)
def test_primitives(name: str) -> None:
    g = groups().get(name)
    if g is None:
        pytest.skip("there is no other type of this width")
    for label, e, got in zip(g.labels, g.exprs, g.run(), strict=True):
        want = expected(e, g.arrays)
        if g.near:
            rtol, atol = TOLERANCE[e.dtype.name][0], float(ml_dtypes.finfo(e.dtype.np).tiny)
            wide = [v.astype(np.float64) for v in (got, want)]
            np.testing.assert_allclose(*wide, rtol, atol, err_msg=f"{name} {label}")
            continue
        bad = np.flatnonzero(~right(e, g.arrays, got, want))
        shown = [(*(a[i] for a in g.arrays), got[i], want[i]) for i in bad[:5]]
        assert not bad.size, f"{name} {label}: {bad.size} wrong: {shown}"


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiled_for_gpus(arch: str) -> None:
    check_compiles([g.text for g in groups().values()], arch)


def run(text: str, *arrays: np.ndarray) -> None:
    shim.load([text])[text](np.array([a.ctypes.data for a in arrays], np.int64), 1)


@needs_shim
def test_what_no_integer_holds() -> None:
    """What kernels/cpu/conversions.py says of NaN and of numbers beyond an i64, which ir/scalar.py leaves open."""
    types = ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"]
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30])
    out = {t: aligned_empty(x.shape, DTYPES[t].np) for t in types}
    lines = [f"st_{t}(p[{k + 1}], threadIdx.x, to_{t}(ld_f64(p[0], threadIdx.x)));" for k, t in enumerate(types)]
    run(kernel(5, 9, lines), x, *out.values())
    for t, got in out.items():
        want = [0] * 5 if DTYPES[t].bits < 64 else [-(2**63)] * 5 if t == "i64" else [2**63, 0, 2**63, 0, 2**63]
        assert got.tolist() == want, t


@needs_shim
def test_names_that_no_primitive_is() -> None:
    lines = [
        "f32 x = f32(2.5), y = f32(-1e-07);",
        "st_f32(p[0], 0, square(x));",
        "st_f32(p[0], 1, fma(x, x, f32(1)));",
        "st_f32(p[0], 2, atan2(y, x));",
        "st_f32(p[0], 3, softmax_exp(f32(-inf)));",
        "st_f32(p[0], 4, where(True, f32(nan), x));",
        "put_i64(p[1], 0, ipow(i64(-3), u64(3)));",
        "put_i64(p[1], 1, floordiv(i64(-7), i64(2)));",
        "put_i64(p[1], 2, square(i64(3037000500)));",
        "memset(p[2], 7, 24);",
        "memset(p[2] + 1, 9, 3);",
        "memcpy(p[2] + 8, p[1], 16);",
        "memcpy(p[2] + 21, p[2] + 1, 3);",
    ]
    f, i, b = (aligned_empty(s, np.dtype(t)) for s, t in (((5,), np.float32), ((3,), np.int64), ((24,), np.uint8)))
    run(kernel(1, 3, lines), f, i, b)
    np.testing.assert_allclose(f, np.float32([6.25, 7.25, -4e-8, 0, np.nan]), 1e-6)
    assert i.tolist() == [-27, -4, 3037000500**2 - 2**64]
    assert b.tobytes() == bytes([7, 9, 9, 9, 7, 7, 7, 7]) + i[:1].tobytes() + i[1:2].tobytes()[:5] + bytes([9, 9, 9])
