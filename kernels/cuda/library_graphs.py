"""Which convolutions and attention NVIDIA's libraries compute, and the texts of those calls (library.py).

A convolution whose windows are single pixels is a product of channels-last tensors, for cuBLASLt; others are cuDNN's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from ...ir.core import Node
from ...ir.layout import channels_last
from ...ir.recording import least
from ...ir.types import BF16, F16, F32, F64, DType
from ..attention import Attention, attention_of, extent_of
from ..convolutions import biased_sums, geometry, refuse_conv
from ..epilogue import Site, epilogue_of, site_of
from ..operands import first_int, first_result
from ..spec import Call, KernelSource, Launch, Refusal
from .library import SCRATCH, declare
from .library_form import Form, form_of

MOST_HEAD = 128  # elements of a head that cuDNN's attention takes on every GPU


def conv(node: Node, precision: str) -> KernelSource | Refusal:
    """Channels-last convolutions of floats, with what becomes of their sums."""
    site = site_of(node)
    if isinstance(site, Refusal):
        return site
    if site.anchor.op.name != "conv":
        return Refusal(f"no library is asked for {site.anchor.op.name}")
    refusal = refuse_conv(site)
    if refusal is not None:
        return refusal
    x, w = site.operand(0).tensor, site.operand(1).tensor  # type: ignore[union-attr]
    if any(t.layout != channels_last(t.rank) for t in (x, site.result)):
        return Refusal("libraries are asked for convolutions of channels-last tensors", {"x": x, "y": site.result})
    found = epilogue_of(site, 1, partial(biased_sums, site))
    form = found if isinstance(found, Refusal) else form_of(found)
    if isinstance(form, Refusal):
        return form
    channels = w.shape[1]
    if not isinstance(channels, int) or channels == 0:
        return Refusal("the number of channels is not known", {"w": w})
    return _pointwise(site, form, precision) if _is_pointwise(site) else _windows(site, form, precision)


def _is_pointwise(site: Site) -> bool:
    a, w = site.anchor, site.operand(1).tensor  # type: ignore[union-attr]
    plain = all(n == 1 for n in (*w.shape[2:], *a.attr("strides"), a.attr("group")))
    return plain and not any(a.attr("pads") or ())


def compute_of(dtype: DType, precision: str) -> str:
    """In what products of this type are summed up, or "tf32": in f32 of 10 bits."""
    return "f64" if dtype is F64 else "tf32" if dtype is F32 and precision == "tf32" else "f32"


def _pointwise(site: Site, form: Form, precision: str) -> KernelSource:
    """A row is a pixel; the weight lies transposed."""
    node, dtype = site.outer, site.result.dtype
    result, first = first_result(node), first_int(node)
    fields = {"type": dtype, "compute": compute_of(dtype, precision), "transpose": [0, 1], "a": site.slot(0), "b": site.slot(1),
              **form.fields(node), "y": result, "scratch": result + 1, "sizes": first}  # fmt: skip

    def bind(call: Call) -> Launch:
        x, w = call.operands[site.index[0]], call.operands[site.index[1]]  # type: ignore[index]
        rows, depth, columns = x[0] * math.prod(x[2:]), x[1], w[0]  # type: ignore[index]
        return Launch((rows, columns, depth, 1, depth, depth, 0, 0), least(1, rows * columns), SCRATCH)

    return KernelSource(declare("cublaslt", "matmul", first + 8, fields), bind, "cublaslt")


def _windows(site: Site, form: Form, precision: str) -> KernelSource | Refusal:
    refusal = _refuse_windows(site, form, precision)
    if refusal is not None:
        return refusal
    node, a = site.outer, site.anchor
    result, first = first_result(node), first_int(node)
    fields = {"type": site.result.dtype, "x": site.slot(0), "w": site.slot(1), **form.fields(node), "y": result,
              "scratch": result + 1, "strides": list(a.attr("strides")) or [1, 1],
              "dilations": list(a.attr("dilations")) or [1, 1], "sizes": first}  # fmt: skip

    def bind(call: Call) -> Launch:
        g = geometry(a, call.operands[site.index[0]], call.operands[site.index[1]])  # type: ignore[index, arg-type]
        ints = (g.n, g.channels, g.per_group, g.out_channels, *g.inputs[1:], *g.outputs[1:], *g.kernel[1:], *g.begin[1:])
        return Launch(ints, least(1, g.n * g.out_channels * math.prod(g.outputs)), SCRATCH)

    pack = {site.index[1]: _taps_first}
    return KernelSource(declare("cudnn", "conv", first + 12, fields), bind, "cudnn", pack)  # type: ignore[arg-type]


def _taps_first(w: np.ndarray) -> np.ndarray:
    """A weight as cuDNN's channels-last graphs read it: its input channels last."""
    return np.ascontiguousarray(w.transpose(0, 2, 3, 1))


def _refuse_windows(site: Site, form: Form, precision: str) -> Refusal | None:
    x, w, a = site.operand(0).tensor, site.operand(1).tensor, site.anchor  # type: ignore[union-attr]
    if x.rank != 4 or not site.operand(1).is_const:  # type: ignore[union-attr]
        return Refusal("cuDNN is asked for convolutions of images by constant weights", {"x": x, "w": w})
    if x.dtype not in (F16, BF16) and not (x.dtype is F32 and precision == "tf32"):
        return Refusal("cuDNN is asked for convolutions of 16-bit floats and of tf32", {"x": x})
    if form.alpha != 1 or form.beta not in (0, 1) or form.activation not in ("none", "relu"):
        return Refusal("cuDNN is asked for act(sums + addend + bias), act being nothing or relu", {"form": form})
    pads = a.attr("pads") or (0,) * 4
    if a.attr("auto_pad") not in ("NOTSET", "VALID") or tuple(pads[:2]) != tuple(pads[2:]) or min(pads) < 0:
        return Refusal("cuDNN pads alike on both sides", {"pads": pads, "auto_pad": a.attr("auto_pad")})
    wide, group = 16 // x.dtype.itemsize, a.attr("group")
    if w.shape[1] % wide or w.shape[0] % (wide * group):  # type: ignore[index, operator]
        return Refusal("cuDNN is asked for channels that are multiples of 16 bytes", {"w": w, "group": group})
    return None


def attention(node: Node) -> KernelSource | Refusal:
    """Scaled dot product attention of 16-bit floats: all keys, or causal; with a mask that is added or without."""
    a = attention_of(node)
    refusal = a if isinstance(a, Refusal) else _refuse_sdpa(a.node)
    if refusal is not None:
        return refusal
    assert isinstance(a, Attention)
    result, first = first_result(node), first_int(node)
    scale = a.node.attr("scale")
    slots = {name: a.slot(i) for i, name in enumerate(("q", "k", "v", "mask")) if a.has(i)}
    fields = {"type": node.results[0].tensor.dtype, **slots, "y": result, "scratch": result + 1,
              "causal": int(bool(a.node.attr("is_causal"))), "scale": None if scale is None else float(scale).hex(),
              "sizes": first}  # fmt: skip

    def bind(call: Call) -> Launch:
        e = extent_of(a, call)
        lies = e.q, e.k, e.v, e.y
        ints = (e.q.batch, e.q.heads, e.k.heads, e.q.length, e.k.length, e.k.size, e.v.size, *(x.at for x in lies[:3]),
                *(step for x in lies for step in x.steps), *e.mask[:3])  # fmt: skip
        return Launch(ints, least(1, e.q.batch * e.q.heads * e.q.length * e.v.size), SCRATCH)

    return KernelSource(declare("cudnn", "attention", first + 25, fields), bind, "cudnn")


def _refuse_sdpa(node: Node) -> Refusal | None:
    q, k, v = (node.operands[i].tensor for i in range(3))  # type: ignore[union-attr]
    if q.dtype not in (F16, BF16) or len(node.results) > 1:
        return Refusal("cuDNN is asked for attention of 16-bit floats with one result", {"q": q})
    if any(node.operand(i) is not None for i in (4, 5, 6)):
        return Refusal("cuDNN is asked for attention without a past and without lengths")
    if node.attr("softcap") or node.attr("left_window_size") >= 0 or node.attr("right_window_size") >= 0:
        return Refusal("cuDNN is asked for attention without windows and caps")
    heads = node.attr("q_num_heads"), node.attr("kv_num_heads"), node.attr("kv_num_heads")
    sizes = [_head(t.shape, n) for t, n in zip((q, k, v), heads, strict=True)]  # type: ignore[arg-type]
    if any(n is None or n % 8 or not 0 < n <= MOST_HEAD for n in sizes):
        return Refusal(f"cuDNN is asked for heads of up to {MOST_HEAD} elements, a multiple of 8", {"heads": sizes})
    mask = node.operand(3)
    if mask is not None:
        wanted = [t.shape[2] if t.rank == 4 else t.shape[1] for t in (q, k)]  # type: ignore[index]
        if mask.tensor.dtype is not q.dtype or list(mask.tensor.shape[-2:]) != wanted:  # type: ignore[index]
            return Refusal("cuDNN is asked for masks of the queries' type, for each query and key", {"mask": mask.type, "q": q})
    return None


def _head(shape: Sequence[object], heads: int | None) -> int | None:
    """The elements of a head, where they are known."""
    size = shape[-1] if len(shape) == 4 else None if heads is None or not isinstance(shape[-1], int) else shape[-1] // heads
    return size if isinstance(size, int) else None
