"""Several tensors that are converted in one launch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.types import dtype_of
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import KernelSource, Refusal

from ..cpu.regions import apply, by_references, fused
from .harness import ARCHITECTURES, Case, check, check_compiles, needs_nvrtc, needs_shim

TYPES = [np.float16, ml_dtypes.bfloat16, np.float32]
PAIRS = [(a, b) for a in TYPES for b in TYPES if a is not b]


def casts(arrays, to, more=()):
    """A node that casts the arrays, some of them (by number) again."""
    count = [*range(len(arrays)), *more]
    return fused(lambda g, xs: [apply(g, "cast", xs[i], to=dtype_of(np.zeros(0, to))) for i in count], *arrays, kernel="casts")


def of_shapes(shapes, source, to) -> Case:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 300, s).astype(source) for s in shapes]
    with np.errstate(over="ignore"):
        special = np.array([np.nan, np.inf, -np.inf, 1e-7, 65536.0], np.float32).astype(source)
    for a in arrays:
        a.ravel()[:5] = special[: a.size]
    node = casts(arrays, to)
    kernel = select(node)
    assert isinstance(kernel, KernelSource), kernel
    return Case(f"casts {shapes} {np.dtype(source)} to {np.dtype(to)}", node, kernel, arrays, by_references(node, arrays), 0, 0)


def cases() -> list[Case]:
    some = [(3, 5), (), (0, 4), (1024,), (1, 2, 513), (1023,)]
    return [of_shapes(some, a, b) for a, b in PAIRS] + [
        of_shapes([(7,)], *PAIRS[0]),
        of_shapes([(i,) for i in range(100)], *PAIRS[1]),
    ]


@needs_shim
def test_casts() -> None:
    check(cases())


def test_what_is_refused() -> None:
    x, many = np.ones(3, np.float32), [np.ones(2, np.float32)] * 150
    for node in (casts([x, x.astype(np.float16)], ml_dtypes.bfloat16), casts([x], np.int32), casts([x, x], np.float16, more=[0]),
                 casts(many, np.float16), fused(lambda g, xs: [apply(g, "neg", xs[0])], x, kernel="casts")):  # fmt: skip
        assert isinstance(select(node), Refusal)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in cases()], arch)
