"""Resize on CUDA: all examples, sizes of many blocks, several axes, layouts, nothing to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphmill.ir.layout import channels_last

from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim


def resized(x: np.ndarray, sizes: list[int], layout: Any = None, **attrs: Any) -> Case:
    given = [x, np.zeros(0, np.float32), None, np.array(sizes, np.int64)]
    layouts = [] if layout is None else [layout]
    return case("resize", given, attrs, constants=(1, 3), layouts=layouts, result_layout=layout, rtol=1e-5, atol=1e-6)


def rand(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    x = np.random.default_rng(shape).uniform(-100, 100, shape)
    return x.astype(dtype)


def several() -> list[Case]:
    nhwc = channels_last(4)
    return [
        resized(rand(2, 3, 20, 30), [2, 3, 41, 45], mode="linear"),
        resized(rand(2, 3, 20, 30), [2, 3, 10, 61], mode="cubic"),
        resized(rand(2, 3, 40, 31), [2, 3, 11, 9], mode="linear", antialias=1),
        resized(rand(2, 3, 20, 30), [2, 3, 40, 60], mode="nearest"),
        resized(rand(2, 3, 20, 30, dtype=np.float16), [2, 3, 40, 60], mode="nearest"),
        resized(rand(2, 3, 20, 30, dtype=np.float64), [2, 3, 7, 60], mode="linear"),
        resized(rand(2, 3, 20, 30, dtype=np.int8), [2, 3, 40, 60], mode="linear", coordinate_transformation_mode="asymmetric"),
        resized(rand(1, 2, 5, 6, 7), [1, 2, 9, 13, 15], mode="linear", coordinate_transformation_mode="align_corners"),
        resized(rand(3, 4, 5), [5, 4, 9], mode="linear"),
        resized(rand(3, 7), [3, 7], mode="linear"),
        resized(rand(1, 4, 9, 5), [1, 4, 20, 33], nhwc, mode="linear"),
        resized(rand(1, 4, 9, 5), [1, 4, 20, 33], nhwc, mode="nearest"),
        case("resize", [rand(1, 1, 4, 4), np.float32([0, 0, -0.2, 0.3, 1, 1, 1.3, 0.8]), None, np.array([1, 1, 30, 30])],
             {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.5}, constants=(1, 3)),
    ]  # fmt: skip


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(["resize"])
    assert len(cases) >= 16 and all("strings are" in r for r in refused), refused
    check(cases)


@needs_shim
def test_more_sizes() -> None:
    check(several())


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in [*cases_of(["resize"])[0], *several()]], arch)
