"""Images: sampling at a grid of positions, making such a grid, decoding files."""

from __future__ import annotations

import functools
import io
import itertools

import numpy as np

from ..errors import UnsupportedError
from ..op import InferContext, Onnx, OnnxCall, ex, op
from ..types import BOOL, COMPLEX, FLOATS, I64, NUMERIC, STR, U8, TensorType
from .common import expect_choice, expect_rank, expect_shape, wide
from .examples import rand
from .sampling import narrow, real, sample

# ---- grid_sample ------------------------------------------------------------------------------------------------


def infer_grid_sample(c: InferContext) -> TensorType:
    expect_choice(c, "mode", "linear", "nearest", "cubic")
    expect_choice(c, "padding_mode", "zeros", "border", "reflection")
    if c.attr("mode") != "nearest" and c.t(0).dtype in (STR, BOOL):
        raise c.error(f"mode = {c.attr('mode')!r} on {c.t(0)}, expected 'nearest' for {c.t(0).dtype}")
    rank = expect_rank(c, 0, at_least=3) or expect_rank(c, 1, at_least=3)
    if rank is None:
        return c.t(0)
    x = expect_shape(c, 0, (None,) * rank) or tuple(c.symbol() for _ in range(rank))
    grid = expect_shape(c, 1, (x[0], *(None,) * (rank - 2), rank - 2), "batch, positions..., one coordinate a spatial axis")
    return c.t(0).with_(shape=(*x[:2], *(grid[1:-1] if grid else (c.symbol() for _ in range(rank - 2)))))


_OLD_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def _old_modes(call: OnnxCall) -> None:
    """Before opset 20 the modes were named for two axes."""
    mode = call.attrs.get("mode", "bilinear")
    call.attrs["mode"] = _OLD_MODES.get(mode, mode)


def _export_modes(call: OnnxCall) -> None:
    if call.opset < 20:
        old = {new: name for name, new in _OLD_MODES.items()}
        call.attrs["mode"] = old.get(call.attrs["mode"], call.attrs["mode"])


def _grid_sample_examples() -> list:
    x, grid = rand(2, 3, 4, 5), rand(2, 3, 6, 2, lo=-1.6, hi=1.6)
    corners = {("linear", "border"), ("nearest", "zeros"), ("nearest", "reflection"), ("cubic", "reflection")}
    modes = itertools.product(("linear", "nearest", "cubic"), ("zeros", "border", "reflection"))
    return [
        *(ex(x, grid, mode=m, padding_mode=p, align_corners=int((m, p) in corners), name=f"{m}_{p}") for m, p in modes),
        ex(rand(1, 2, 3, 4, 5), rand(1, 2, 3, 2, 3), name="three_axes"),
        ex(x.astype(np.float64), grid, name="f64_by_f32"),
        ex(rand(1, 1, 4, 4, dtype=np.uint8, hi=200), grid[:1], mode="nearest", name="u8"),
        ex(x[:0], grid[:0], name="empty_batch"),
    ]


@op("grid_sample", onnx=Onnx("GridSample", since=16, before={20: _old_modes}, export=_export_modes), infer=infer_grid_sample,
    examples=_grid_sample_examples, dtypes={"x": NUMERIC | COMPLEX | {BOOL, STR}, "grid": FLOATS},
    tolerance=(2e-5, 5e-6))  # fmt: skip
def grid_sample(x, grid, *, align_corners=0, mode="linear", padding_mode="zeros"):
    """x[N,C,d...] read at grid[N,out...,n] -> [N,C,out...]; -1 and 1 are the ends of an axis, the last axis comes first.

    Positions outside read zero, the border, or are reflected at it; integers are cut off after interpolation.
    """
    values = x if mode == "nearest" else real(x)
    positions = wide(grid)
    sizes = np.array(x.shape[2:], positions.dtype).reshape((-1,) + (1,) * (x.ndim - 2))
    low, high = (0, sizes - 1) if align_corners else (-0.5, sizes - 0.5)
    settle = {"zeros": None, "border": lambda i: np.clip(i, 0, sizes - 1),
              "reflection": functools.partial(_reflect, low=low, high=high)}[padding_mode]  # fmt: skip
    out = np.empty((*x.shape[:2], *grid.shape[1:-1]), values.dtype)
    for n, image in enumerate(positions):
        at = np.moveaxis(image[..., ::-1], -1, 0)
        at = (at + 1) / 2 * (sizes - 1) if align_corners else ((at + 1) * sizes - 1) / 2
        at = np.rint(at) if mode == "nearest" else at
        if settle is not None and mode != "cubic":  # PyTorch's and ONNX Runtime's way: a cubic's own taps are settled alone
            at = np.where((at < low) | (at > high), settle(at), at)
        out[n] = sample(values[n], at, mode, None if settle is None else lambda i: settle(i).astype(np.int64))
    return narrow(out, x.dtype)


def _reflect(at: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Positions reflected at both ends until they lie in [low, high]."""
    span = np.where(high - low > 0, high - low, 1)
    turned = np.mod(at - low, 2 * span)
    return np.clip(low + np.where(turned > span, 2 * span - turned, turned), low, high)


# ---- affine_grid ------------------------------------------------------------------------------------------------


def infer_affine_grid(c: InferContext) -> TensorType:
    expect_rank(c, 0, 3)
    theta, length = c.shape(0), (c.shape(1) or (None,))[0]
    n = length - 2 if isinstance(length, int) else theta[1] if theta is not None and isinstance(theta[1], int) else None
    if n is None:
        return c.t(0).with_(shape=None)
    if n not in (2, 3):
        raise c.error(f"size has {n + 2} entries, expected N, C, H, W or N, C, D, H, W")
    expect_shape(c, 0, (None, n, n + 1), "one matrix an image")
    expect_shape(c, 1, (n + 2,), "N, C and one entry a spatial axis")
    sizes = [c.symbol() if d is None else d for d in c.ints(1) or [None] * (n + 2)]
    return c.t(0).with_(shape=(theta[0] if theta is not None else sizes[0], *sizes[2:], n))


def _affine_examples() -> list:
    theta, size = rand(2, 2, 3), np.array([2, 3, 4, 5], np.int64)
    return [
        ex(theta, size, name="plain"),
        ex(theta, size, align_corners=1, name="align_corners"),
        ex(rand(1, 3, 4), np.array([1, 1, 2, 3, 4], np.int64), name="three_axes"),
        ex(theta.astype(np.float64), size, name="f64"),
        ex(theta.astype(np.float16), size, align_corners=1, name="f16"),
    ]


@op("affine_grid", onnx=Onnx("AffineGrid", since=20), infer=infer_affine_grid, dtypes={"theta": FLOATS, "size": {I64}},
    examples=_affine_examples)  # fmt: skip
def affine_grid(theta, size, *, align_corners=0):
    """The grid [N, out..., n] of positions that theta[N, n, n+1] maps an image of `size` to (see grid_sample).

    An axis of one element lies at 0 with align_corners, as in PyTorch.
    """
    t, sizes = wide(theta), [int(d) for d in size[2:]]
    axes = [np.linspace(-1, 1, d) if align_corners and d > 1 else (2 * np.arange(d) + 1) / d - 1 for d in sizes]
    mesh = np.stack([*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(sizes)], axis=-1).astype(t.dtype)
    return np.einsum("...j,nij->n...i", mesh, t).astype(theta.dtype)


# ---- image_decoder ----------------------------------------------------------------------------------------------


def infer_image_decoder(c: InferContext) -> TensorType:
    expect_choice(c, "pixel_format", "RGB", "BGR", "Grayscale")
    expect_rank(c, 0, 1)
    return TensorType(U8, (c.symbol(), c.symbol(), 1 if c.attr("pixel_format") == "Grayscale" else 3))


def _ppm() -> np.ndarray:
    """A picture of 2 x 3 pixels in the portable pixmap format."""
    return np.frombuffer(b"P6 3 2 255\n" + bytes(range(18)), np.uint8)


def _decoder_examples() -> list:
    return [ex(_ppm(), name="rgb"), ex(_ppm(), pixel_format="BGR", name="bgr"), ex(_ppm(), pixel_format="Grayscale", name="gray")]


@op("image_decoder", onnx=Onnx("ImageDecoder", since=20), infer=infer_image_decoder, dtypes={"encoded_stream": {U8}},
    traits=("host",), examples=_decoder_examples)  # fmt: skip
def image_decoder(encoded_stream, *, pixel_format="RGB"):
    """The picture in a file's bytes [n] as [height, width, channels], with no pixels where it cannot be decoded.

    Raises UnsupportedError where Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UnsupportedError("ImageDecoder needs Pillow; install graphmill[images]") from None
    gray = pixel_format == "Grayscale"
    try:
        picture = np.asarray(Image.open(io.BytesIO(encoded_stream.tobytes())).convert("L" if gray else "RGB"))
    except (OSError, SyntaxError, ValueError):  # what Pillow's decoders raise on broken data
        return np.zeros((0, 0, 1 if gray else 3), np.uint8)
    return picture[:, :, None].copy() if gray else picture[:, :, :: -1 if pixel_format == "BGR" else 1].copy()
