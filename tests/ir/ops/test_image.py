"""Grids and decoded pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from graphmill.ir.ops.image import affine_grid, grid_sample, image_decoder
from graphmill.ir.ops.resize import resize


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_the_identity_grid_reads_the_image(mode: str, align: int) -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 4, 5)).astype(np.float32)
    eye = np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)
    grid = affine_grid.reference(eye, np.array(x.shape), align_corners=align)
    np.testing.assert_allclose(grid_sample.reference(x, grid, mode=mode, align_corners=align), x, atol=1e-5)


def test_positions_far_outside() -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    grid = np.array([[[[5.0, 0], [np.nan, 0], [-1e30, 0], [np.inf, 0]]]], np.float32)
    with np.errstate(all="ignore"):
        assert not grid_sample.reference(x, grid)[0, 0, 0, [0, 2, 3]][:1].any()
        assert grid_sample.reference(x, grid, mode="nearest", padding_mode="border")[0, 0, 0].tolist()[0] == 3
        reflected = grid_sample.reference(x, grid[:, :, :1], mode="nearest", padding_mode="reflection", align_corners=1)
    assert reflected.tolist() == [[[[3]]]]  # position 9 goes back and forth over 0..3 three times


def test_integers_are_cut_off() -> None:
    x = np.array([[[[0, 255]]]], np.uint8)
    y = resize.reference(x, None, None, np.array([1, 1, 1, 4]), mode="linear")
    np.testing.assert_array_equal(y[0, 0, 0], [0, 63, 191, 255])


@pytest.mark.parametrize("broken", [b"", b"\x89PNG\r\n\x1a\n", b"P6 3 2 255\n123", bytes(100)])
def test_what_cannot_be_decoded_has_no_pixels(broken: bytes) -> None:
    assert image_decoder.reference(np.frombuffer(broken, np.uint8)).shape == (0, 0, 3)
    assert image_decoder.reference(np.frombuffer(broken, np.uint8), pixel_format="Grayscale").shape == (0, 0, 1)


def test_a_gray_picture_as_rgb() -> None:
    image = pytest.importorskip("PIL.Image")
    gray, file = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, io.BytesIO()
    image.fromarray(gray).save(file, "PNG")
    y = image_decoder.reference(np.frombuffer(file.getvalue(), np.uint8))
    np.testing.assert_array_equal(y, np.repeat(gray[:, :, None], 3, axis=2))
