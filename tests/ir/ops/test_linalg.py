"""Matrix products, einsum, determinants: inference, errors, exactness."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import OPS
from graphmill.ir.ops.linalg import parse_equation
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, I32, TensorType
from op_harness import infer_types, load_all, run_node

load_all()
N, M = symbol("n", 1), symbol("m", 1)


def test_matmul_shapes() -> None:
    assert infer_types("matmul", ("f32", (N, 1, 2, 3)), ("f32", (M, 3, 4))) == TensorType(F32, (N, M, 2, 4))
    assert infer_types("matmul", ("f32", (3,)), ("f32", (3,))).shape == ()
    assert infer_types("matmul", ("f32", (N, 3)), ("f32", (3,))).shape == (N,)
    assert infer_types("matmul", ("f32", None), ("f32", (3, 4))).shape is None
    with pytest.raises(InferenceError, match=r"inner dimensions of \[2,3\] and \[4,5\] differ: 3 and 4"):
        infer_types("matmul", ("f32", (2, 3)), ("f32", (4, 5)))
    with pytest.raises(InferenceError, match="is a scalar"):
        infer_types("matmul", ("f32", ()), ("f32", (4, 5)))


def test_gemm_shapes_and_old_opsets() -> None:
    assert infer_types("gemm", ("f32", (3, N)), ("f32", (4, 3)), transA=1, transB=1).shape == (N, 4)
    with pytest.raises(InferenceError, match="inner dimensions"):
        infer_types("gemm", ("f32", (3, 2)), ("f32", (4, 3)), transA=1)
    with pytest.raises(InferenceError, match="does not broadcast"):
        infer_types("gemm", ("f32", (2, 3)), ("f32", (3, 4)), ("f32", (3,)))
    with pytest.raises(InferenceError, match="expected rank 2"):
        infer_types("gemm", ("f32", (2, 3, 4)), ("f32", (3, 4)))
    a, b, c = np.eye(2, 3, dtype=np.float32), np.ones((3, 4), np.float32), np.float32([1, 2, 3, 4])
    np.testing.assert_array_equal(run_node("Gemm", 6, a, b, c, broadcast=1, beta=2.0), a @ b + 2 * c)


def test_integer_gemm_is_exact() -> None:
    a, b = np.array([[2**53 + 1]]), np.array([[1]])
    assert OPS["gemm"].reference(a, b).item() == 2**53 + 1
    assert OPS["gemm"].reference(a, b, alpha=2.0).item() == 2**54 + 2
    assert OPS["gemm"].reference(np.array([[3]]), b, alpha=0.5).item() == 1


@pytest.mark.parametrize(
    "equation, count, want",
    [
        ("ij,jk", 2, ([["i", "j"], ["j", "k"]], ["i", "k"])),
        ("bA -> Ab", 1, ([["b", "A"]], ["A", "b"])),
        ("b,A", 2, ([["b"], ["A"]], ["A", "b"])),
        ("...ii", 1, ([["...", "i", "i"]], ["..."])),
        ("ij->", 1, ([["i", "j"]], [])),
    ],
)
def test_equations(equation: str, count: int, want: tuple) -> None:
    assert parse_equation(equation, count) == want


@pytest.mark.parametrize("equation", ["ij,jk->ik", "i1->i", "i..->i", "ij->iik", "ij->ii", "......i", "i->...->i"])
def test_bad_equations(equation: str) -> None:
    with pytest.raises(ValueError, match="equation"):
        parse_equation(equation, 1)


def test_einsum_shapes() -> None:
    assert infer_types("einsum", ("f32", (N, 2, 3)), ("f32", (3, 4)), equation="...ij,jk->...ik").shape == (N, 2, 4)
    assert infer_types("einsum", ("f32", None), ("f32", (3, 4)), equation="ij,jk->ik").rank == 2
    with pytest.raises(InferenceError, match="label j stands for 3 and 4"):
        infer_types("einsum", ("f32", (2, 3)), ("f32", (4, 5)), equation="ij,jk->ik")
    with pytest.raises(InferenceError, match="does not fit the term"):
        infer_types("einsum", ("f32", (2, 3)), equation="ijk->i")


def test_einsum_sums_an_ellipsis_away() -> None:
    x = np.float32(np.arange(24)).reshape(2, 3, 4)
    np.testing.assert_array_equal(OPS["einsum"].reference(x, equation="...k->k"), x.sum((0, 1)))


def test_det() -> None:
    assert infer_types("det", ("f32", (N, 3, 3))).shape == (N,)
    with pytest.raises(InferenceError, match=r"expected \[..., M, M\]"):
        infer_types("det", ("f32", (2, 3)))
    assert OPS["det"].reference(np.zeros((0, 0), np.float32)).item() == 1


def test_integer_products_do_not_overflow() -> None:
    a, b = np.full((1, 40000), 255, np.uint8), np.full((40000, 1), 255, np.uint8)
    assert OPS["matmul_integer"].reference(a, b).item() == np.int64(255 * 255 * 40000).astype(np.int32)
    assert OPS["matmul_integer"].reference(a[:, :100], b[:100], np.uint8(5), np.uint8(7)).item() == 250 * 248 * 100
    assert infer_types("matmul_integer", ("u8", (N, 3)), ("i8", (3, 4))) == TensorType(I32, (N, 4))
    with pytest.raises(InferenceError, match="expected elements of u8"):
        infer_types("matmul_integer", ("u8", (N, 3)), ("i8", (3, 4)), ("i8", ()))
