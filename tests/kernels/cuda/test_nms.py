"""non_max_suppression on CUDA: all examples, many boxes, several classes, ties and NaN among the scores."""

from __future__ import annotations

import numpy as np
import pytest

from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

RNG = np.random.default_rng(0)


def suppressed(boxes: np.ndarray, scores: np.ndarray, most: int, *limits: float, **attrs: int) -> Case:
    given = [boxes, scores, np.array([most], np.int64), *(np.float32([x]) for x in limits)]
    return case("non_max_suppression", given, attrs, constants=(2,))


def boxes(batch: int, n: int) -> np.ndarray:
    corner = RNG.random((batch, n, 2)) * 10
    return np.concatenate([corner, corner + RNG.random((batch, n, 2)) * 3 - 0.3], -1).astype(np.float32)


def scores(*shape: int) -> np.ndarray:
    return RNG.random(shape).astype(np.float32)


def several() -> list[Case]:
    ties = RNG.integers(-1, 4, (1, 2, 300)).astype(np.float32)
    ties[0, 0, ::50] = np.nan
    ties[0, 1, ::7] = -0.0
    return [
        suppressed(boxes(2, 600), scores(2, 3, 600), 400, 0.5),
        suppressed(boxes(2, 600), scores(2, 3, 600), 5, 0.3, 0.6),
        suppressed(boxes(1, 1100), scores(1, 1, 1100), 2000, 0.9, 0.1),
        suppressed(boxes(1, 50), scores(1, 2, 50), 50, 0.4, center_point_box=1),
        suppressed(boxes(1, 300), ties, 300, 0.4),
        suppressed(boxes(1, 300), ties, 300, 0.4, 0.5),
        suppressed(boxes(1, 1), scores(1, 1, 1), 3, 0.5),
        suppressed(boxes(1, 20), scores(1, 2, 20), 0, 0.5),
        suppressed(boxes(1, 20), scores(1, 2, 20), 9, 0.5, 2.0),
        suppressed(boxes(1, 20), scores(1, 30, 20), 9, 0.0),
        suppressed(boxes(2, 0), scores(2, 3, 0), 4, 0.5),
        suppressed(boxes(2, 5), scores(2, 0, 5), 4, 0.5),
        suppressed(boxes(0, 5), scores(0, 2, 5), 4, 0.5),
    ]


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(["non_max_suppression"])
    assert len(cases) >= 7 and not refused
    check(cases)


@needs_shim
def test_many_boxes() -> None:
    check(several())


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in [*cases_of(["non_max_suppression"])[0], *several()]], arch)
