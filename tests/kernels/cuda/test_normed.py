"""Normalizations in front of products of few rows, in one kernel, against the references of their nodes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import KernelSource, Refusal

from ..cpu.regions import apply, by_references, fused
from .harness import ARCHITECTURES, Case, check, check_compiles, needs_nvrtc, needs_shim

BF16 = ml_dtypes.bfloat16


def node_of(
    rows, depth, columns, dtype=np.float16, norm="layer_norm", scale=True, bias=True, steps=(), seed=0, trans=False, **attrs
):
    """A region of a normalization, a product, and elementwise nodes: "bias", "gelu", "relu", "x" (the input once more)."""
    rng = np.random.default_rng((seed, depth, columns))

    def normal(*shape, by=1.0, mean=0.0):
        return rng.normal(mean, by, shape).astype(dtype)

    rows = rows if isinstance(rows, tuple) else (1, rows)
    arrays = {
        "x": normal(*rows, depth, by=3, mean=1),
        "w": normal(*((columns, depth) if trans else (depth, columns)), by=depth**-0.5),
    }
    arrays |= {"scale": normal(depth, mean=1, by=0.2)} if scale else {}
    arrays |= {"shift": normal(depth, by=0.2)} if bias else {}
    arrays |= {"bias": normal(columns)} if "bias" in steps else {}
    names = list(arrays)

    def build(g, inputs):
        known = dict(zip(names, inputs, strict=True))
        more = [known.get("scale"), *([known["shift"]] if bias else [])]
        y = apply(g, norm, known["x"], *more, axis=-1, **attrs)
        y = apply(g, "gemm", y, known["w"], transB=1) if trans else apply(g, "matmul", y, known["w"])
        for step in steps:
            y = apply(g, "add", y, known[step]) if step in known else apply(g, step, y)
        return [y]

    return fused(build, *arrays.values(), kernel="normed", constants=(1,)), list(arrays.values())


def case(*sizes, **more) -> Case:
    node, arrays = node_of(*sizes, **more)
    kernel = select(node)
    assert isinstance(kernel, KernelSource), f"{sizes} {more}: {kernel}"
    tolerance = 2e-2 if more.get("dtype") is BF16 else 4e-3
    return Case(f"{sizes} {more}", node, kernel, arrays, by_references(node, arrays), tolerance, tolerance)


def cases() -> list[Case]:
    found = [case(rows, depth, columns) for rows, depth, columns in
             [(1, 8, 8), (1, 64, 24), (2, 40, 100), (7, 264, 32), (16, 384, 96), (31, 768, 40), (32, 2056, 33), (1, 768, 520)]]  # fmt: skip
    found += [case(3, 96, 96, steps=("bias", "gelu", "x")), case(3, 96, 64, dtype=BF16, steps=("bias",)),
              case(5, 128, 64, norm="rms_norm", bias=False), case(5, 128, 64, norm="rms_norm", bias=False, dtype=BF16, steps=("relu",)),
              case((2, 3), 72, 64, bias=False), case((2, 2, 4), 72, 64, epsilon=0.1), case((20,), 64, 40, trans=True)]  # fmt: skip
    return found


@needs_shim
def test_normed_products() -> None:
    check(cases())


@needs_shim
def test_large_means_and_infinities() -> None:
    """The mean is taken away before the deviation is found, and what one row has does not touch another."""
    node, arrays = node_of(6, 64, 32)
    arrays[0][0, 1] += 3000
    arrays[0][0, 2] = 0
    arrays[0][0, 3, 5], arrays[0][0, 4, 5] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        check([Case("values", node, select(node), arrays, by_references(node, arrays), 4e-3, 4e-3)])


def test_what_is_refused() -> None:
    """Many rows, long ones, many blocks, f32, another axis, lengths that are no whole chunks."""
    for sizes, more in (((33, 64, 64), {}), ((1, 4104, 64), {}), ((1, 64, 60000), {}), ((4, 64, 64), {"dtype": np.float32}),
                        ((4, 63, 64), {})):  # fmt: skip
        assert isinstance(select(node_of(*sizes, **more)[0]), Refusal)
    x, w = np.ones((1, 8, 16), np.float16), np.ones((16, 16), np.float16)
    two = fused(lambda g, v: [apply(g, "matmul", apply(g, "layer_norm", v[0], v[2], axis=1), v[1])], x, w, x[0], kernel="normed",
                constants=(1,))  # fmt: skip
    assert isinstance(select(two), Refusal)

    def squared(g, v):
        y = apply(g, "layer_norm", v[0], v[1], axis=-1)
        return [apply(g, "matmul", y, y)]

    assert isinstance(select(fused(squared, x[:, :, :8], w[0, :8], kernel="normed")), Refusal)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in cases()], arch)
