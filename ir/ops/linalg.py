"""Products of matrices, Einstein sums, determinants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..op import Example, InferContext, Onnx, drop_attrs, ex, op
from ..scalar import broadcast_shapes
from ..scalar_numpy import convert
from ..symbols import DimLike, broadcast, prove_ne
from ..types import BF16, FLOATS, I8, I32, I64, NUMERIC, U8, U32, U64, Shape, TensorType, dtype_of
from .common import expect_rank, same_dtype, wide
from .examples import rand

MULTIPLIABLE = FLOATS | {I32, I64, U32, U64}


# ---- matmul -----------------------------------------------------------------------------------------------------


def matmul_shape(c: InferContext, a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of numpy's matmul: vectors count as a row on the left and a column on the right, leading axes broadcast."""
    if a is None or b is None:
        return None
    if not a or not b:
        raise c.error("an operand is a scalar; expected rank 1 or more on both sides")
    inner = b[-2] if len(b) > 1 else b[0]
    if prove_ne(a[-1], inner):
        show = [f"[{','.join(map(str, s))}]" for s in (a, b)]
        raise c.error(f"the inner dimensions of {show[0]} and {show[1]} differ: {a[-1]} and {inner}")
    batch = broadcast_shapes(c, a[:-2], b[:-2])
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def _infer_matmul(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1)
    return TensorType(c.t(0).dtype, matmul_shape(c, c.shape(0), c.shape(1)))


def _matmuls() -> list[Example]:
    kinds = (np.float64, np.float16, BF16.np, np.int32, np.int64, np.uint32, np.uint64)
    return [
        ex(rand(2, 3), rand(3, 4)),
        ex(rand(3), rand(3)),
        ex(rand(3), rand(2, 3, 4)),
        ex(rand(2, 4, 3), rand(3)),
        ex(rand(5, 1, 2, 3), rand(4, 3, 2)),
        ex(rand(2, 0), rand(0, 3)),
        ex(rand(0, 2, 3), rand(3, 4)),
        *(ex(rand(2, 3, dtype=k, hi=9), rand(3, 2, dtype=k, hi=9)) for k in kinds),
    ]


@op(
    "matmul",
    onnx="MatMul",
    infer=_infer_matmul,
    dtypes={"a": MULTIPLIABLE, "b": MULTIPLIABLE},
    traits=("anchor",),
    examples=_matmuls,
)
def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """numpy's matmul; f16 and bf16 are summed in f32, integers wrap."""
    return np.asarray(np.matmul(wide(a), wide(b))).astype(a.dtype, copy=False)


# ---- gemm -------------------------------------------------------------------------------------------------------


def _infer_gemm(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1, 2)
    expect_rank(c, 0, 2)
    expect_rank(c, 1, 2)
    a, b = c.shape(0), c.shape(1)
    m, k = (None, None) if a is None else (a[1], a[0]) if c.attr("transA") else a
    k2, n = (None, None) if b is None else (b[1], b[0]) if c.attr("transB") else b
    if k is not None and k2 is not None and prove_ne(k, k2):
        raise c.error(f"the inner dimensions of {c.t(0)} and {c.t(1)} differ: {k} and {k2} (transA, transB applied)")
    shape = tuple(c.symbol() if d is None else d for d in (m, n))
    third = c.shape(2) if c.has(2) else None
    if third is not None and (len(third) > 2 or any(prove_ne(d, 1) and prove_ne(d, e) for d, e in zip(third[::-1], shape[::-1]))):
        raise c.error(f"C of type {c.t(2)} does not broadcast to [{shape[0]},{shape[1]}]")
    return TensorType(c.t(0).dtype, shape)


def _gemms() -> list[Example]:
    a, b = rand(2, 3), rand(3, 4)
    kinds = (np.float64, np.float16, BF16.np, np.int32, np.uint64)
    return [
        ex(a, b),
        ex(a, b, rand(4)),
        ex(a, b, rand(2, 1), alpha=0.5, beta=2.0),
        ex(a.T.copy(), b.T.copy(), rand(2, 4), transA=1, transB=1),
        ex(a, b, np.float32(3), beta=0.5),
        ex(rand(2, 0), rand(0, 3), rand(3)),
        ex(rand(0, 2), rand(2, 3), rand(1, 3)),
        *(ex(rand(2, 3, dtype=k, hi=9), rand(3, 2, dtype=k, hi=9), rand(2, dtype=k, hi=9), alpha=2.0) for k in kinds),
    ]


@op("gemm", onnx=Onnx("Gemm", before={7: drop_attrs("broadcast")}), infer=_infer_gemm, dtypes=dict.fromkeys("abc", MULTIPLIABLE),
    traits=("anchor",), examples=_gemms)  # fmt: skip
def gemm(a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0,
         transB: int = 0) -> np.ndarray:  # fmt: skip
    """alpha * A B + beta * C with A[M,K] (or its transpose), B[K,N], C broadcast to [M,N]. f16 and bf16 are summed in f32."""
    y = np.matmul(wide(a.T if transA else a), wide(b.T if transB else b))
    y = _scaled(y, alpha)
    return (y if c is None else y + _scaled(wide(c), beta)).astype(a.dtype, copy=False)


def _scaled(x: np.ndarray, factor: float) -> np.ndarray:
    """x * factor in x's element type; integers are multiplied exactly where the factor is whole, else in f64 and truncated."""
    if dtype_of(x).is_integer and factor != int(factor):
        return (x * factor).astype(x.dtype)
    return x if factor == 1 else x * np.asarray(factor).astype(x.dtype)


# ---- einsum -----------------------------------------------------------------------------------------------------

Terms = tuple[list[list[str]], list[str]]


def parse_equation(equation: str, count: int) -> Terms:
    """The labels of each operand and of the result of an einsum equation; "..." counts as one label.

    Raises ValueError for an equation that is malformed or has not `count` operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_labels(t, equation) for t in left.split(",")]
    if len(terms) != count:
        raise ValueError(f'equation "{equation}" has {len(terms)} terms for {count} operands')
    flat = [x for t in terms for x in t]
    if not arrow:
        once = sorted(x for x in set(flat) if x != "..." and flat.count(x) == 1)
        return terms, (["..."] if "..." in flat else []) + once
    out = _labels(right, equation)
    if len(set(out)) != len(out) or not set(out) <= set(flat) | {"..."}:
        raise ValueError(f'equation "{equation}": each output label must occur once, and in an operand')
    return terms, out


def _labels(term: str, equation: str) -> list[str]:
    before, dots, after = term.partition("...")
    labels = [*before, *([dots] if dots else []), *after]
    if not all(x == "..." or (x.isascii() and x.isalpha()) for x in labels):
        raise ValueError(f'equation "{equation}": the term "{term}" is malformed; expected letters and at most one "..."')
    return labels


def _infer_einsum(c: InferContext) -> TensorType:
    n = len(c.types)
    same_dtype(c, *range(n))
    try:
        terms, out = parse_equation(c.attr("equation"), n)
    except ValueError as e:
        raise c.error(str(e)) from None
    if any(c.shape(i) is None for i in range(n)):
        return TensorType(c.t(0).dtype, None if "..." in out else tuple(c.symbol() for _ in out))
    sizes: dict[str, DimLike] = {}
    middle: Shape = ()
    for i, labels in enumerate(terms):
        shape = c.shape(i)
        assert shape is not None
        dots = len(shape) - len(labels) + 1
        if dots != 1 and ("..." not in labels or dots < 0):
            raise c.error(f"operand {i} of type {c.t(i)} does not fit the term {''.join(labels)}")
        middle = broadcast_shapes(c, middle, _spread(labels, shape, dots, sizes, c))
    return TensorType(c.t(0).dtype, tuple(d for x in out for d in (middle if x == "..." else (sizes[x],))))


def _spread(labels: Sequence[str], shape: Shape, dots: int, sizes: dict[str, DimLike], c: InferContext) -> Shape:
    """Enters the sizes of an operand's labels into `sizes`; returns the dims that its "..." stands for."""
    at = 0
    middle: Shape = ()
    for x in labels:
        if x == "...":
            middle, at = shape[at : at + dots], at + dots
            continue
        try:
            sizes[x] = broadcast(sizes.get(x, 1), shape[at])
        except ValueError:
            raise c.error(f"the label {x} stands for {sizes[x]} and {shape[at]}") from None
        at += 1
    return middle


def _einsums() -> list[Example]:
    a, b = rand(2, 3), rand(3, 4)
    kinds = (np.float64, np.float16, BF16.np, np.int8, np.int64, np.uint16)
    return [
        ex(a, b, equation="ij,jk->ik"),
        ex(a, b, equation="ij, jk"),
        ex(a, equation="ij->ji"),
        ex(a, equation="ij->"),
        ex(rand(3, 3), equation="ii->i"),
        ex(rand(3, 3), equation="ii"),
        ex(rand(2, 3, 3), equation="...ii->...i"),
        ex(rand(5, 2, 3), rand(1, 3, 4), equation="...ij,...jk->...ik"),
        ex(rand(5, 2, 3), rand(3, 4), equation="...ij,...jk"),
        ex(rand(3), rand(4), equation="b,A"),
        ex(rand(2, 3, 4), rand(4, 3), rand(2), equation="bij,ji,b->b"),
        ex(rand(0, 3), b, equation="ij,jk->ik"),
        *(ex(rand(2, 3, dtype=k, hi=5), rand(3, 2, dtype=k, hi=5), equation="ij,jk->ik") for k in kinds),
    ]


@op("einsum", onnx=Onnx("Einsum", since=12), infer=_infer_einsum, dtypes={"inputs": NUMERIC}, traits=("anchor",), examples=_einsums)
def einsum(*inputs: np.ndarray, equation: str) -> np.ndarray:
    """Einstein's summation; f16 and bf16 are summed in f32, integers wrap."""
    terms, out = parse_equation(equation, len(inputs))
    explicit = ",".join("".join(t) for t in terms) + "->" + "".join(out)
    if any("..." in t for t in terms) and "..." not in out:
        # numpy wants the ellipsis in the output: keep it in front and sum it away.
        kept = np.einsum(explicit.replace("->", "->..."), *map(wide, inputs), optimize=len(inputs) > 2)
        y = np.sum(kept, axis=tuple(range(kept.ndim - len(out))), dtype=kept.dtype)
    else:
        y = np.einsum(explicit, *map(wide, inputs), optimize=len(inputs) > 2)
    return np.asarray(y).astype(inputs[0].dtype, copy=False)


# ---- det --------------------------------------------------------------------------------------------------------


def _infer_det(c: InferContext) -> TensorType:
    shape = c.shape(0)
    if shape is not None and (len(shape) < 2 or prove_ne(shape[-1], shape[-2])):
        raise c.error(f"the operand has type {c.t(0)}; expected [..., M, M]")
    return TensorType(c.t(0).dtype, None if shape is None else shape[:-2])


def _dets() -> list[Example]:
    low = [ex(rand(2, 2, dtype=t)) for t in (np.float64, np.float16, BF16.np)]
    return [
        ex(rand(3, 3)),
        ex(rand(2, 4, 2, 2)),
        ex(np.zeros((2, 2), np.float32)),
        ex(rand(0, 3, 3)),
        ex(np.zeros((2, 0, 0), np.float32)),
        *low,
    ]


@op("det", onnx=Onnx("Det", since=11), infer=_infer_det, dtypes={"x": FLOATS}, examples=_dets)
def det(x: np.ndarray) -> np.ndarray:
    """The determinant of each matrix of the last two axes, computed in f64."""
    return np.asarray(np.linalg.det(x.astype(np.float64))).astype(x.dtype)


# ---- integer products -------------------------------------------------------------------------------------------


def per_row(v: np.ndarray) -> np.ndarray:
    """A scale or zero point of a left operand [..., M, K]: one number for all, or one a row, given as [M] or [..., M, 1]."""
    return v.reshape(()) if v.size == 1 else v[:, None] if v.ndim == 1 else v


def per_column(v: np.ndarray) -> np.ndarray:
    """A scale or zero point of a right operand [..., K, N]: one number for all, or one a column, given as [N] or [..., 1, N]."""
    return v.reshape(()) if v.size == 1 else v


def shifted(x: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
    """x - zero_point without wrapping, in f64 (which holds sums of 2^37 products of 8-bit numbers exactly)."""
    wide_x = x.astype(np.float64)
    return wide_x if zero_point is None else wide_x - zero_point.astype(np.float64)


BYTES = frozenset({I8, U8})


def _infer_matmul_integer(c: InferContext) -> TensorType:
    same_dtype(c, 0, 2)
    same_dtype(c, 1, 3)
    return TensorType(I32, matmul_shape(c, c.shape(0), c.shape(1)))


def _integer_matmuls() -> list[Example]:
    a, b = rand(2, 3, dtype=np.uint8, hi=255), rand(3, 4, dtype=np.int8, lo=-128, hi=127)
    return [
        ex(a, b),
        ex(a, b, np.uint8(12)),
        ex(a, b, np.uint8(12), np.int8(-7)),
        ex(a, b, None, np.array([1, -2, 3, -4], np.int8)),
        ex(a.astype(np.int8), b.astype(np.uint8), np.array([-3], np.int8), np.array([5], np.uint8)),
        ex(np.stack([a, a]), np.stack([b, b]), np.uint8(3), np.array([[[1, 2, 3, 4]], [[5, 6, 7, 8]]], np.int8)),
        ex(a, b, np.array([1, 2], np.uint8)),
        ex(np.zeros((0, 3), np.uint8), b),
    ]


@op("matmul_integer", onnx=Onnx("MatMulInteger", since=10), infer=_infer_matmul_integer, dtypes=dict.fromkeys(
    ("a", "b", "a_zero_point", "b_zero_point"), BYTES), traits=("anchor",), examples=_integer_matmuls)  # fmt: skip
def matmul_integer(
    a: np.ndarray, b: np.ndarray, a_zero_point: np.ndarray | None = None, b_zero_point: np.ndarray | None = None
) -> np.ndarray:
    """(A - a_zero_point)(B - b_zero_point) in i32; zero points for all of an operand, or a row of A and a column of B."""
    left = shifted(a, None if a_zero_point is None else per_row(a_zero_point))
    right = shifted(b, None if b_zero_point is None else per_column(b_zero_point))
    return convert(np.asarray(np.matmul(left, right)), I32)
