"""Random numbers: element types, seeds, and that the distributions are the ones asked for."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.types import DTYPES
from inferring import N, infer, run, t

BF16, I32, F64 = DTYPES["bf16"], DTYPES["i32"], DTYPES["f64"]


def test_types() -> None:
    assert infer("random_normal", shape=(2, 3), dtype=F64) == t(2, 3, dtype="f64")
    assert infer("random_uniform_like", t(N, dtype="i32"), dtype=BF16) == t(N, dtype="bf16")
    assert infer("multinomial", t(N, 4), sample_size=7) == t(N, 7, dtype="i32")
    for name, operands, attrs in (
        ("random_normal", (), {"shape": (2,), "dtype": I32}),
        ("random_normal", (), {"shape": (-2,)}),
        ("random_normal_like", (t(2, dtype="i32"),), {}),
        ("multinomial", (t(4),), {}),
    ):
        with pytest.raises(InferenceError):
            infer(name, *operands, **attrs)


def test_seeds_repeat() -> None:
    a, b = (run("random_uniform", shape=(9,), seed=1.5) for _ in range(2))
    assert np.array_equal(a, b) and not np.array_equal(a, run("random_uniform", shape=(9,), seed=2.5))
    assert not np.array_equal(run("random_uniform", shape=(9,)), run("random_uniform", shape=(9,)))


def test_distributions() -> None:
    x = run("random_normal", shape=(20_000,), mean=3.0, scale=2.0, seed=1.0)
    assert abs(x.mean() - 3) < 0.1 and abs(x.std() - 2) < 0.1
    u = run("random_uniform", shape=(20_000,), low=-1.0, high=2.0, seed=1.0)
    assert u.min() >= -1 and u.max() < 2 and abs(u.mean() - 0.5) < 0.05
    p = np.repeat(np.array([0.0, 0.25, 1.0], np.float32), 4000).reshape(3, -1)
    assert np.allclose(run("bernoulli", p, seed=1.0).mean(1), [0, 0.25, 1], atol=0.03)
    logits = np.log(np.array([[0.5, 0.25, 0.25], [1e-30, 1.0, 1e-30]], np.float32)) + 50
    draws = run("multinomial", logits, sample_size=4000, seed=1.0)
    assert np.allclose(np.bincount(draws[0]) / 4000, [0.5, 0.25, 0.25], atol=0.03) and set(draws[1]) == {1}
