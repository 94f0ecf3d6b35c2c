"""The scalar language: exactness of its numpy evaluation, casts, bits, and shape arithmetic through expressions."""

from __future__ import annotations

import copy
import math
import pickle

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import ml_dtypes
import numpy as np
import pytest
from graphmill.ir import scalar
from graphmill.ir.op import OPS, InferContext
from graphmill.ir.scalar import arg, binary
from graphmill.ir.scalar_numpy import convert, evaluate, reinterpret
from graphmill.ir.symbols import Dim, symbol
from graphmill.ir.symbols import evaluate as evaluate_dim
from graphmill.ir.types import (
    BF16,
    BOOL,
    DTYPES,
    F16,
    F32,
    F64,
    I4,
    I8,
    I32,
    I64,
    STR,
    U4,
    U8,
    U32,
    U64,
    DType,
    TensorType,
    dtype_of,
)
from hypothesis import given
from hypothesis import strategies as st


def unary(fn: str, x: np.ndarray) -> np.ndarray:
    return evaluate(scalar.call(fn, arg(0, dtype_of(x))), [x])


def test_erf_is_as_exact_as_the_c_library() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), [0.46875, 4, 6, 1e-300, 5e-324, 1e300]])
    want = np.array([math.erf(v) for v in x])
    got = unary("erf", x)
    assert np.max(np.abs(got - want)) < 4e-16
    assert np.all(np.abs(got - want) <= 1e-15 * np.abs(want))


def test_erf_edges() -> None:
    got = unary("erf", np.array([0.0, -0.0, np.inf, -np.inf, np.nan]))
    np.testing.assert_array_equal(got, [0, 0, 1, -1, np.nan])
    assert list(np.signbit(got[:4])) == [False, True, False, True]
    for t in (np.float16, BF16.np, np.float32):
        x = np.linspace(-3, 3, 50).astype(t)
        want = np.array([math.erf(v) for v in x.astype(float)]).astype(t)
        got = unary("erf", x)
        assert got.dtype == t and np.array_equal(got, want)
    assert unary("erf", np.zeros((0, 3), np.float32)).shape == (0, 3) and unary("erf", np.float32(0.5)).shape == ()


def test_every_pair_of_types_converts() -> None:
    for s in DTYPES.values():
        for t in DTYPES.values():
            if STR not in (s, t) and (s.kind == "complex") == (t.kind == "complex"):
                got = convert(np.ones(3, s.np) if s.kind == "complex" else convert(np.ones(3), s), t)
                wide = got.astype(np.complex128 if t.kind == "complex" else np.float64)
                assert got.dtype == t.np and np.array_equal(wide, np.ones(3)), (s, t)


@pytest.mark.parametrize(
    "x, to, want",
    [
        (np.int64([200, -300, 2**40 + 5]), I8, [-56, -44, 5]),
        (np.int64([-9, -1, 7, 8, 20]), I4, [7, -1, 7, -8, 4]),
        (np.int64([-1, 15, 16]), U4, [15, 15, 0]),
        (np.float32([-1, 300, 3e9, -2.7]), U8, [255, 44, 0, 254]),
        (np.float32([3e9, -1]), U32, [3000000000, 2**32 - 1]),
        (np.float64([2**63, -1, 1e19]), U64, [2**63, 2**64 - 1, 10**19]),
        (np.float32([0.5, 0, np.nan, -0.0]), BOOL, [True, False, True, False]),
        (np.float32([1e9, -1e9]), F16, [np.inf, -np.inf]),
        (np.float32([-1.5, 2.9]).astype(BF16.np), I32, [-1, 2]),
    ],
)
def test_convert(x: np.ndarray, to: DType, want: list) -> None:
    got = convert(x, to)
    assert got.dtype == to.np and got.astype(object).tolist() == want


def test_sub_byte_integers_convert_into_each_other() -> None:
    x = np.array([-8, -1, 7]).astype(ml_dtypes.int4)
    assert convert(x, U4).astype(int).tolist() == [8, 15, 7] == reinterpret(x, U4).astype(int).tolist()


def test_bitcast_keeps_the_bits_and_the_width() -> None:
    x = np.float32([1, -0.0])
    assert evaluate(scalar.bitcast(arg(0, F32), U32), [x]).tolist() == [0x3F800000, 0x80000000]
    assert evaluate(scalar.bitcast(arg(0, F32), I32), [np.float32(1)]).shape == ()
    assert reinterpret(np.uint8([0, 2]), BOOL).tolist() == [False, True]
    with pytest.raises(TypeError, match="equal width, got 32 and 16 bits"):
        scalar.bitcast(arg(0, F32), F16)


INT_EDGES = [
    ("div", [7, -7, 5, -128], [2, 2, 0, -1], [3, -3, 0, -128]),
    ("floordiv", [7, -7, 5, -128], [2, 2, 0, -1], [3, -4, 0, -128]),
    ("mod", [7, -7, 7, 5, -128], [3, 3, -3, 0, -1], [1, 2, -2, 0, 0]),
    ("fmod", [7, -7, 7, 5, -128], [3, 3, -3, 0, -1], [1, -1, 1, 0, 0]),
    ("pow", [2, -3, 1, -1, 0, 2], [3, 3, -5, -3, 0, 7], [8, -27, 1, -1, 1, -128]),
    ("shl", [1, 1, 1, -1], [3, 8, -1, 7], [8, 0, 0, -128]),
    ("shr", [-128, -1, 100, -5], [7, 70, -1, -1], [-1, -1, 0, -1]),
]


@pytest.mark.parametrize("fn, a, b, want", INT_EDGES)
def test_integer_edges(fn: str, a: list, b: list, want: list) -> None:
    got = evaluate(binary(fn, arg(0, I8), arg(1, I8)), [np.array(a, np.int8), np.array(b, np.int8)])
    assert got.dtype == np.int8 and got.tolist() == want


def test_unequal_types_are_refused() -> None:
    with pytest.raises(TypeError, match="add of f32 and f64: the element types must be equal"):
        arg(0, F32) + arg(1, F64)


# ---- shape arithmetic -------------------------------------------------------------------------------------------

N, M = symbol("n", 1), symbol("m")


def known(name: str, *contents: object, dtypes: tuple | None = None, **attrs: object) -> list | None:
    """The known contents that the operator gives for vectors of these contents (None: nothing known of a vector of two)."""
    d = OPS[name]
    arrays = [None if x is None else np.array(x, object) for x in contents]
    types = [TensorType(t, (2,) if a is None else a.shape) for a, t in zip(arrays, dtypes or (I64,) * len(arrays))]
    out = d.dims(InferContext(d, types, {k: a.default for k, a in d.attrs.items()} | attrs, 1, arrays))
    return None if out is None else out.tolist()


@pytest.mark.parametrize(
    "name, contents, want",
    [
        ("add", ([N, 2], [1, N]), [N + 1, N + 2]),
        ("sub", ([N], [N]), [0]),
        ("mul", ([N, None], [2, 3]), [2 * N, None]),
        ("div", ([4 * N, 7], [2, N]), [2 * N, 7 // N]),
        ("div", ([N - 5], [2]), None),  # may be negative: truncation and floor differ
        ("mod", ([4 * N + 1], [4]), [1]),
        ("max", ([N, M], [1, 0]), [N, M]),
        ("min", ([N], [0]), [0]),
        ("equal", ([N, N, N], [N, 0, 5]), [True, False, None]),
        ("less", ([0, N], [N, 1]), [True, False]),
        ("greater_or_equal", ([N, M], [1, 1]), [True, None]),
        ("neg", ([N],), [-N]),
        ("abs", ([N, -N],), [N, N]),
        ("add", ([N], [None]), None),
    ],
)
def test_known_contents(name: str, contents: tuple, want: list | None) -> None:
    assert known(name, *contents) == want


def test_known_contents_of_where_cast_and_clip() -> None:
    assert known("where", [True, False, None], [N, N, 1], [M, M, 2], dtypes=(BOOL, I64, I64)) == [N, M, None]
    assert known("where", [True, True], None, [N, N], dtypes=(BOOL, I64, I64)) is None
    assert known("where", [True, False], [N, 1], None, dtypes=(BOOL, I64, I64)) == [N, None]
    assert known("cast", [N, 3], to=I32) == [N, 3]
    assert known("cast", [N, 0, M], to=BOOL) == [True, False, None]
    assert known("cast", [2**31], to=I32) is None
    assert known("cast", [N], to=F32) is None
    assert known("and", [True, False], [True, True], dtypes=(BOOL, BOOL)) == [True, False]


def test_plain_constants_are_left_to_the_folder() -> None:
    d = OPS["add"]
    arrays = [np.array([1]), np.array([2])]
    assert d.dims(InferContext(d, [TensorType(I64, (1,))] * 2, {}, 1, arrays)) is None


@given(
    name=st.sampled_from(["add", "sub", "mul", "div", "mod", "min", "max", "equal", "less", "less_or_equal", "greater", "where"]),
    left=st.tuples(st.integers(-3, 5), st.integers(-4, 9)),
    right=st.tuples(st.integers(-3, 5), st.integers(-4, 9)),
    n=st.integers(1, 12),
)
def test_known_contents_are_what_runs(name: str, left: tuple, right: tuple, n: int) -> None:
    """Whatever is claimed to be known of linear functions of one symbol holds for each of its values."""
    a, b = (k * N + c for k, c in (left, right))
    x, y = (np.array(k * n + c) for k, c in (left, right))
    if name == "where":
        got = known("where", known("less", a, b), a, b, dtypes=(BOOL, I64, I64))
        want = OPS["where"].reference(x < y, x, y)
    else:
        got, want = known(name, a, b), OPS[name].reference(x, y, **({"fmod": 0} if name == "mod" else {}))
    if got is not None:
        assert (evaluate_dim(got, {"n": n}) if isinstance(got, Dim) else got) == want.item()


def test_an_element_type_is_one_object() -> None:
    for d in DTYPES.values():
        assert pickle.loads(pickle.dumps(d)) is d and copy.deepcopy(d) is d


def test_types_are_inferred_anew_for_other_attributes() -> None:
    """What is kept of an element type is told apart by the attributes' types too, and where they cannot be hashed not kept."""

    def fn(x, *, to):
        return scalar.cast(x, F64 if type(to) is bool else I64 if type(to) is int else F32 if type(to) is list else x.dtype)

    infer = scalar.infer_elementwise(fn)
    types = [TensorType(F16, (3,))]
    for _ in range(2):
        found = [infer(InferContext(OPS["abs"], types, {"to": to}, 1)).dtype for to in (1, True, 1.0, [1])]
        assert found == [I64, F64, F16, F32]


def test_the_parts_of_a_shared_expression_come_once_in_order() -> None:
    x, y = arg(0, F32), arg(1, F32)
    s = x + y
    whole = (s * x) + (y - s)
    assert [p.fn for p in scalar.postorder(whole)] == ["arg", "arg", "add", "mul", "sub", "add"]
    assert evaluate(whole, [np.float32(2), np.float32(3)]) == 8
