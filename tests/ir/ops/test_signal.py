"""Fourier transforms, windows and losses."""

from __future__ import annotations

import graphmill.ir.ops.loss
import graphmill.ir.ops.signal  # noqa: F401
import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import OPS, InferContext
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, I64, TensorType

X = np.random.default_rng(0).normal(size=(2, 9, 1))


def ref(name: str, *operands: np.ndarray | None, **attrs: object) -> np.ndarray:
    d = OPS[name]
    return d.reference(*operands, **{k: a.default for k, a in d.attrs.items()} | attrs)


@pytest.mark.parametrize("n", [8, 9])
def test_inverse_of_dft(n: int) -> None:
    x, axis = X[:, :n], np.array(1)
    np.testing.assert_allclose(ref("dft", ref("dft", x, None, axis), None, axis, inverse=1)[..., :1], x, atol=1e-12)
    half = ref("dft", x, None, axis, onesided=1)
    assert half.shape == (2, n // 2 + 1, 2)
    np.testing.assert_allclose(ref("dft", half, np.array(n), axis, inverse=1, onesided=1), x, atol=1e-12)


def test_stft_of_one_frame_is_dft() -> None:
    np.testing.assert_allclose(ref("stft", X, np.array(1))[:, 0], ref("dft", X, onesided=1), atol=1e-12)


def test_stft_of_a_signal_without_its_last_dim() -> None:
    step, length = np.array(3), np.array(6)
    np.testing.assert_array_equal(ref("stft", X[..., 0], step, None, length), ref("stft", X, step, None, length))
    scalar, known = TensorType(I64, ()), (None, step, None, length)
    assert infer("stft", TensorType(F32, (2, 9)), scalar, None, scalar, contents=known) == (2, 2, 4, 2)


@pytest.mark.parametrize("name", ["hann_window", "hamming_window", "blackman_window"])
def test_a_periodic_window_is_a_longer_symmetric_one(name: str) -> None:
    np.testing.assert_array_equal(ref(name, np.array(8)), ref(name, np.array(9), periodic=0)[:8])
    assert np.isfinite(ref(name, np.array(1), periodic=0)).all()


def infer(name: str, *types: TensorType | None, contents: tuple = (), **attrs: object) -> tuple | None:
    d = OPS[name]
    return d.infer(InferContext(d, list(types), {k: a.default for k, a in d.attrs.items()} | attrs, 1, contents)).shape


def test_shapes() -> None:
    n, scalar = symbol("n", 1), TensorType(I64, ())
    assert infer("dft", TensorType(F32, (2, n, 1)), onesided=1) == (2, n // 2 + 1, 2)
    assert infer("dft", TensorType(F32, (2, n, 1)), None, scalar) == (2, n, 2)  # whatever the axis
    frames = infer("stft", TensorType(F32, (1, n, 1)), scalar, TensorType(F32, (16,)), contents=(None, np.array(4)))
    assert frames[0] == 1 and frames[2:] == (9, 2)


@pytest.mark.parametrize("name, shapes, attrs, message", [
    ("dft", [(2, 4, 3)], {}, "expected a last dimension of 1"),
    ("dft", [(2, 4, 2)], {"onesided": 1}, "expected real input"),
    ("dft", [(2, 4, 1)], {"onesided": 1, "inverse": 1}, "expected complex input"),
])  # fmt: skip
def test_wrong_operands_are_named(name: str, shapes: list, attrs: dict, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        infer(name, *(TensorType(F32, s) for s in shapes), **attrs)


def test_targets_must_be_classes() -> None:
    scores = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="targets from 0 to 3, expected classes 0 to 2"):
        ref("nll_loss", scores, np.array([0, 3]))
    assert ref("nll_loss", scores, np.array([0, 3]), ignore_index=3) == 0


def test_cross_entropy_of_certainty_is_finite() -> None:
    loss, log_prob = ref("softmax_cross_entropy_loss", np.array([[1e4, -1e4]], np.float32), np.array([1]))
    assert loss == 2e4 and log_prob.tolist() == [[0, -2e4]]
