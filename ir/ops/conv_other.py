"""The relatives of convolution: transposed, deformable, causal with a state, and columns to image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..op import InferContext, Onnx, ex, op
from ..symbols import DimLike, dim_max, exact_quotient, floordiv, product, prove_ne
from ..types import BF16, BOOL, COMPLEX, F16, F32, FLOATS, I64, NUMERIC, STR, TensorType
from .common import drop_empty, expect_choice, expect_rank, expect_shape, same_dtype, wide
from .conv import check_weight, finished, grouped, kernel_of
from .examples import rand
from .sampling import sample
from .windows import AUTO_PADS, Windows, infer_windows, make_windows, scatter_windows

# ---- conv_transpose ---------------------------------------------------------------------------------------------


def _transpose_windows(spatial: Sequence[DimLike], kernel: Sequence[DimLike], auto_pad: str, pads: Sequence[int],
                       strides: Sequence[int], dilations: Sequence[int], output_padding: Sequence[int],
                       output_shape: Sequence[int]) -> tuple[Windows, tuple]:  # fmt: skip
    """The windows over the result, one for each element of the input, and the result's spatial shape.

    Where the shape asked for is larger than what the windows cover, the rest at the end holds the bias alone.
    """
    n = len(spatial)
    if auto_pad not in AUTO_PADS:
        raise ValueError(f"auto_pad = {auto_pad!r}, expected one of {', '.join(AUTO_PADS)}")
    base = make_windows(spatial, kernel, pads=pads if auto_pad == "NOTSET" else (), strides=strides, dilations=dilations)
    extra, wanted = tuple(output_padding) or (0,) * n, tuple(output_shape)[-n:]
    if len(extra) != n or (wanted and len(wanted) != n):
        raise ValueError(f"output_padding = {list(extra)} and output_shape = {list(wanted)}, expected {n} entries each")
    begin, out = list(base.begin), []
    for i, (size, k, s, d) in enumerate(zip(spatial, kernel, base.strides, base.dilations, strict=True)):
        natural = s * (size - 1) + extra[i] + (k - 1) * d + 1
        if wanted or auto_pad.startswith("SAME"):
            out.append(wanted[i] if wanted else size * s)
            total = dim_max(natural - out[i], 0)
            half = floordiv(total, 2)
            begin[i] = half if auto_pad == "SAME_UPPER" else total - half
        else:
            out.append(dim_max(natural - base.begin[i] - base.end[i], 0))
    return Windows(tuple(kernel), base.strides, base.dilations, tuple(begin), (0,) * n, tuple(spatial)), tuple(out)


def infer_conv_transpose(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1, 2)
    x, w, kernel, group = c.shape(0), c.shape(1), kernel_of(c), c.attr("group")
    if x is None or kernel is None:
        return c.t(0).with_(shape=None)
    if w is not None:
        _check_transposed(c, x, w, group)
    channels = w[1] * group if w is not None else c.symbol()
    expect_shape(c, 2, (channels,), "one number an output channel")
    names = ("auto_pad", "pads", "strides", "dilations", "output_padding", "output_shape")
    try:
        _, out = _transpose_windows(x[2:], kernel, *(c.attr(name) for name in names))
    except ValueError as e:
        raise c.error(str(e)) from None
    return c.t(0).with_(shape=(x[0], channels, *out))


def _check_transposed(c: InferContext, x: tuple, w: tuple, group: int) -> None:
    kernel = c.attr("kernel_shape")
    if group < 1:
        raise c.error(f"group = {group}, expected at least 1")
    if len(x) < 3 or len(w) != len(x):
        raise c.error(f"X is {c.t(0)} and W {c.t(1)}, expected the same rank of at least 3")
    if prove_ne(x[1], w[0]) or (isinstance(x[1], int) and x[1] % group):
        raise c.error(f"X is {c.t(0)} and W {c.t(1)}, expected W's first dimension = X's channels, a multiple of group = {group}")
    if kernel and (len(kernel) != len(w) - 2 or any(prove_ne(a, b) for a, b in zip(kernel, w[2:], strict=True))):
        raise c.error(f"kernel_shape = {list(kernel)}, expected that of W, {c.t(1)}")


def _transpose_examples() -> list:
    x, w = rand(1, 4, 3, 4), rand(4, 2, 3, 3)
    return [
        ex(x, w, rand(2), name="bias"),
        ex(x, w, strides=(3, 2), pads=(1, 2, 1, 2), name="pads"),
        ex(x, w, strides=(3, 2), output_padding=(1, 1), name="output_padding"),
        ex(x, w, strides=(3, 2), output_shape=(10, 8), name="output_shape"),
        ex(x, w, strides=(2, 2), auto_pad="SAME_UPPER", name="same_upper"),
        ex(x, w, strides=(2, 2), auto_pad="SAME_LOWER", name="same_lower"),
        ex(x, w, group=2, dilations=(2, 1), name="group"),
        ex(rand(0, 4, 3, 4), w, name="empty_batch"),
        ex(rand(1, 2, 4, dtype=np.float64), rand(2, 3, 2, dtype=np.float64), strides=(2,), name="f64"),
    ]


@op("conv_transpose", onnx=Onnx("ConvTranspose", export=drop_empty), infer=infer_conv_transpose,
    dtypes=dict.fromkeys("xwb", FLOATS), traits=("anchor",), examples=_transpose_examples)  # fmt: skip
def conv_transpose(x, w, b=None, *, auto_pad="NOTSET", dilations=(), group=1, kernel_shape=(), output_padding=(), output_shape=(),
                   pads=(), strides=()):  # fmt: skip
    """The adjoint of conv: x[N,C,...], w[C,M/group,kernel...], b[M] -> [N,M,...]."""
    kernel, m = w.shape[2:], w.shape[1] * group
    win, out = _transpose_windows(x.shape[2:], kernel, auto_pad, pads, strides, dilations, output_padding, output_shape)
    xw, ww = wide(x), wide(w)
    taps, positions = math.prod(kernel), math.prod(x.shape[2:])
    weight = ww.reshape(group, w.shape[0] // group, w.shape[1] * taps).transpose(0, 2, 1)
    y = np.empty((x.shape[0], m, *out), xw.dtype)
    for i, image in enumerate(xw):
        cols = np.matmul(weight, image.reshape(group, x.shape[1] // group, positions))
        y[i] = scatter_windows(cols.reshape(m, taps, *x.shape[2:]), win, out)
    return finished(y, b, x.dtype)


# ---- deform_conv ------------------------------------------------------------------------------------------------


def infer_deform_conv(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1, 2, 3, 4)
    x, w, groups = c.shape(0), c.shape(1), c.attr("offset_group")
    if x is None or w is None:
        return c.t(0).with_(shape=None)
    try:
        check_weight(x, w, c.attr("group"), c.attr("kernel_shape"))
    except ValueError as e:
        raise c.error(str(e)) from None
    if groups < 1 or (isinstance(x[1], int) and x[1] % groups):
        raise c.error(f"offset_group = {groups}, expected a divisor of the {x[1]} channels of {c.t(0)}")
    out = infer_windows(c, x[2:], w[2:]).out
    taps = groups * product(w[2:])
    expect_shape(c, 2, (x[0], taps * (len(x) - 2), *out), "offset_group * kernel size * spatial axes")
    expect_shape(c, 3, (w[0],), "one number an output channel")
    expect_shape(c, 4, (x[0], taps, *out), "offset_group * kernel size")
    return c.t(0).with_(shape=(x[0], w[0], *out))


def _deform_examples() -> list:
    x, w = rand(1, 2, 5, 4), rand(3, 2, 2, 2)
    return [
        ex(x, w, rand(1, 8, 4, 3), name="plain"),
        ex(x, w, rand(1, 16, 6, 5), rand(3), rand(1, 8, 6, 5), offset_group=2, pads=(1, 1, 1, 1), name="mask"),
        ex(rand(2, 2, 5, 4), rand(4, 1, 2, 2), rand(2, 8, 2, 2), group=2, strides=(2, 1), dilations=(1, 2), name="group"),
        ex(rand(0, 2, 5, 4), w, rand(0, 8, 4, 3), name="empty_batch"),
        ex(x.astype(np.float64), w.astype(np.float64), rand(1, 8, 4, 3, dtype=np.float64), name="f64"),
    ]


@op("deform_conv", onnx=Onnx("DeformConv", since=19, export=drop_empty), infer=infer_deform_conv,
    dtypes=dict.fromkeys(("x", "w", "offset", "b", "mask"), FLOATS), examples=_deform_examples)  # fmt: skip
def deform_conv(x, w, offset, b=None, mask=None, *, dilations=(), group=1, kernel_shape=(), offset_group=1, pads=(), strides=()):
    """Convolution whose windows sample x at positions moved by `offset`, linearly, each tap weighted by `mask`.

    x[N,C,d...], w[M,C/group,k...], offset[N, offset_group*K*n, out...] (n spatial axes, K taps), mask[N, offset_group*K, out...].
    """
    axes, c = x.ndim - 2, x.shape[1]
    win = make_windows(x.shape[2:], w.shape[2:], pads=pads, strides=strides, dilations=dilations)
    taps = math.prod(win.kernel)
    xw, weight = wide(x), wide(w).reshape(group, w.shape[0] // group, math.prod(w.shape[1:]))
    at = wide(offset).reshape(x.shape[0], offset_group, taps, axes, *win.out) + _tap_positions(win, xw.dtype)
    y = np.empty((x.shape[0], w.shape[0], *win.out), xw.dtype)
    for i, image in enumerate(xw):
        parts = image.reshape(offset_group, c // offset_group, *x.shape[2:])
        cols = np.stack([sample(part, np.moveaxis(a, 1, 0)) for part, a in zip(parts, at[i], strict=True)])
        if mask is not None:
            cols = cols * wide(mask)[i].reshape(offset_group, 1, taps, *win.out)
        cols = cols.reshape(group, weight.shape[2], math.prod(win.out))
        y[i] = np.matmul(weight, cols).reshape(y.shape[1:])
    return finished(y, b, x.dtype)


def _tap_positions(win: Windows, dtype: np.dtype) -> np.ndarray:
    """Where the taps of all windows lie in the unpadded input: [taps, axes, out...]."""
    origin = np.indices(win.out) * _column(win.strides, len(win.out)) - _column(win.begin, len(win.out))
    taps = np.array(list(win.taps())) * np.array(win.dilations)
    return (taps.reshape(*taps.shape, *(1,) * len(win.out)) + origin).astype(dtype)


def _column(values: Sequence[int], axes: int) -> np.ndarray:
    return np.array(values).reshape((-1,) + (1,) * axes)


# ---- causal_conv_with_state -------------------------------------------------------------------------------------


def infer_causal_conv(c: InferContext) -> list[TensorType]:
    same_dtype(c, 0, 1, 2, 3)
    expect_choice(c, "activation", "none", "silu", "swish")
    expect_rank(c, 0, 3), expect_rank(c, 1, 3)
    x, w = c.shape(0), c.shape(1)
    if x is None or w is None:
        known = c.shape(3) if c.has(3) else None
        return [c.t(0), c.t(0).with_(shape=known)]
    expect_shape(c, 1, (x[1], 1, None), "channels, 1, kernel size")
    expect_shape(c, 2, (x[1],), "one number a channel")
    state = (x[0], x[1], w[2] - 1)
    expect_shape(c, 3, state, "batch, channels, kernel size - 1")
    return [c.t(0), c.t(0).with_(shape=state)]


def _causal_examples() -> list:
    x, w = rand(2, 3, 5), rand(3, 1, 4)
    return [
        ex(x, w, results=2, name="plain"),
        ex(x, w, rand(3), rand(2, 3, 3), activation="silu", results=2, name="silu"),
        ex(rand(2, 3, 1), w, None, rand(2, 3, 3), activation="swish", results=2, name="one_step"),
        ex(x, rand(3, 1, 1), results=2, name="kernel_1"),
        ex(rand(0, 3, 5), w, results=2, name="empty_batch"),
        ex(x.astype(np.float16), w.astype(np.float16), results=2, name="f16"),
    ]


@op("causal_conv_with_state", onnx=Onnx("CausalConvWithState", since=27), infer=infer_causal_conv, results=2,
    dtypes=dict.fromkeys(("x", "w", "b", "past_state"), frozenset({F32, F16, BF16})), examples=_causal_examples)  # fmt: skip
def causal_conv_with_state(x, w, b=None, past_state=None, *, activation="none"):
    """Depthwise convolution x[N,C,L], w[C,1,k], b[C] that sees the past alone -> [N,C,L], and the last k-1 inputs [N,C,k-1]."""
    k = w.shape[2]
    past = np.zeros((*x.shape[:2], k - 1), x.dtype) if past_state is None else past_state
    series = np.concatenate([past, x], axis=2)
    y = finished(grouped(wide(series), wide(w), x.shape[1], make_windows((series.shape[2],), (k,))), b, wide(x).dtype)
    if activation != "none":
        y = y / (1 + np.exp(-y))
    return y.astype(x.dtype), series[:, :, x.shape[2] :]


# ---- col2im -----------------------------------------------------------------------------------------------------


def infer_col2im(c: InferContext) -> TensorType:
    expect_rank(c, 0, 3)
    x, image, block = c.shape(0), c.ints(1), c.ints(2)
    n = next((d[0] for d in (c.shape(1), c.shape(2)) if d and isinstance(d[0], int)), None)
    if n is None:
        return c.t(0).with_(shape=None)
    spatial = [c.symbol() if d is None else d for d in image or [None] * n]
    if x is None:
        return c.t(0).with_(shape=(c.symbol(), c.symbol(), *spatial))
    known = [d for d in block or () if d is not None]
    if len(known) != n:
        return c.t(0).with_(shape=(x[0], c.symbol(), *spatial))
    taps = product(known)
    if isinstance(x[1], int) and isinstance(taps, int) and (taps < 1 or x[1] % taps):
        raise c.error(f"input x has shape {c.t(0)}, expected a second dimension that is a multiple of {taps}, the block's size")
    blocks = infer_windows(c, spatial, known).out
    expect_shape(c, 0, (None, None, product(blocks)), "the number of blocks in the image")
    channels = exact_quotient(x[1], taps)
    return c.t(0).with_(shape=(x[0], floordiv(x[1], taps) if channels is None else channels, *spatial))


def _col2im_examples() -> list:
    i = lambda *v: np.array(v, np.int64)  # noqa: E731
    return [
        ex(rand(1, 5, 5), i(5, 5), i(1, 5), name="rows"),
        ex(rand(2, 8, 12), i(4, 5), i(2, 2), name="overlap"),
        ex(rand(1, 9, 4), i(5, 5), i(3, 3), strides=(2, 2), name="strides"),
        ex(rand(1, 9, 15), i(5, 5), i(3, 3), pads=(0, 1, 0, 1), name="pads"),
        ex(rand(1, 4, 15), i(6, 6), i(2, 2), dilations=(1, 3), name="dilations"),
        ex(rand(0, 8, 12), i(4, 5), i(2, 2), name="empty_batch"),
        ex(rand(1, 16, 12, dtype=np.float64), i(3, 4, 5), i(2, 2, 4), name="three_axes_f64"),
    ]


@op("col2im", onnx=Onnx("Col2Im", since=18, export=drop_empty), infer=infer_col2im, examples=_col2im_examples,
    dtypes={"x": NUMERIC | COMPLEX | {BOOL, STR}, "image_shape": {I64}, "block_shape": {I64}})  # fmt: skip
def col2im(x, image_shape, block_shape, *, dilations=(), pads=(), strides=()):
    """Sums the columns x[N, C*prod(block), L] into the image [N, C, image...]: the adjoint of cutting it into blocks."""
    image, block = tuple(map(int, image_shape)), tuple(map(int, block_shape))
    win = make_windows(image, block, pads=pads, strides=strides, dilations=dilations)
    n, c = x.shape[0], x.shape[1] // math.prod(block)
    cols = wide(x).reshape(n * c, math.prod(block), *win.out)
    return scatter_windows(cols, win, image).reshape(n, c, *image).astype(x.dtype)
