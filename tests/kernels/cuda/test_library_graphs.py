"""Convolutions and attention by libraries: which become a call, that numpy makes of their texts what the references say, and what cuDNN
is asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.kernels.cuda import cudnn, libraries, library, nvrtc
from graphmill.kernels.cuda.driver import Command
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call, KernelSource, Refusal

from ..cpu.harness import aligned, make_node, reference
from ..cpu.regions import packed_attention
from ..cpu.test_gemm import expect, fused
from .fake_cudnn import FakeCudnn
from .fake_cupy import Fake
from .harness import Case, check
from .test_gemm import CLOSE

PADDED = {"pads": [1] * 4}


def rand(*shape: int, dtype: Any = np.float16, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / 2).astype(dtype)


def conv_node(x: np.ndarray, w: np.ndarray, attrs: dict, bias: bool = True, steps: Any = (), last: bool = True) -> tuple:
    """A convolution with its epilogue, channels-last; and its operands."""
    arrays = [x, w, *([rand(w.shape[0], dtype=x.dtype, seed=7)] if bias else [])]
    anchor = make_node("conv", arrays, attrs, constants=(1, 2)[: len(arrays) - 1])
    layout = channels_last(x.ndim) if last else None
    for v in (anchor.operands[0], anchor.results[0]):
        v.type = v.tensor.with_(layout=layout)
    if not steps:
        return anchor, arrays
    node, extra = fused(anchor, steps)
    for at in (1, 2)[: len(arrays) - 1]:  # what was constant stays so
        node.operands[at].const = anchor.operands[at].const
    return node, [*arrays, *extra]


def conv(x: np.ndarray, w: np.ndarray, attrs: dict, bias: bool = True, steps: Any = (), precision: str = "fp32") -> Case:
    node, arrays = conv_node(x, w, attrs, bias, steps)
    source = libraries.select(node, precision)
    assert isinstance(source, KernelSource), source
    wide = [a.astype(np.float32 if x.dtype != np.float64 else np.float64) for a in arrays[: 2 + bias]]
    want = reference(OPS["conv"], wide, attrs)[0]
    want = expect([(name, [a.astype(want.dtype) for a in others], at) for name, others, at in steps], want)
    return Case(f"conv {x.shape} {w.shape} {attrs} {x.dtype}", node, source, arrays, [want.astype(x.dtype)], *CLOSE[x.dtype.name])


def convs() -> list[Case]:
    residual = [("add", [rand(2, 24, 9, 9, seed=3)], 0), ("relu", [], 0)]
    cases = [
        conv(rand(2, 16, 9, 9), rand(24, 16, 3, 3, seed=1), PADDED, steps=residual),
        conv(rand(2, 16, 9, 9), rand(24, 16, 3, 3, seed=1), PADDED, bias=False),
        conv(rand(1, 16, 10, 7), rand(8, 16, 3, 2, seed=1), {"strides": [2, 1], "dilations": [1, 2]}),
        conv(rand(1, 16, 10, 7), rand(8, 16, 1, 1, seed=1), {"strides": [2, 2]}, steps=[("relu", [], 0)]),
        conv(rand(2, 16, 6, 6), rand(32, 8, 3, 3, seed=1), {"group": 2} | PADDED),
        conv(
            rand(2, 16, 6, 6, dtype=np.float32),
            rand(8, 16, 3, 3, dtype=np.float32, seed=1),
            {"auto_pad": "VALID"},
            precision="tf32",
        ),
        conv(rand(0, 16, 6, 6), rand(8, 16, 3, 3), PADDED),
    ]
    assert {c.source.variant for c in cases} == {"cudnn"}
    return cases


def pointwise() -> list[Case]:
    cases = [conv(rand(2, 5, *(4, 3, 2)[:axes], dtype=dtype), rand(7, 5, *(1,) * axes, dtype=dtype, seed=1), {})
             for axes in (1, 2, 3) for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]  # fmt: skip
    steps = [("add", [rand(2, 24, 9, 9, seed=3)], 1), ("relu", [], 0)]
    cases.append(conv(rand(2, 16, 9, 9), rand(24, 16, 1, 1, seed=1), {}, steps=steps))
    assert {c.source.variant for c in cases} == {"cublaslt"}
    return cases


def attention(shapes: Any, attrs: dict, mask: Any = None, dtype: Any = np.float16) -> Case | Refusal:
    arrays = [rand(*s, dtype=dtype, seed=i) for i, s in enumerate(shapes)] + ([] if mask is None else [mask])
    node = make_node("attention", arrays, attrs)
    source = libraries.select(node)
    if isinstance(source, Refusal):
        return source
    want = reference(OPS["attention"], [a.astype(np.float32) for a in arrays], attrs)[0].astype(dtype)
    return Case(f"attention {shapes} {attrs}", node, source, arrays, [want], *CLOSE[np.dtype(dtype).name])


def attentions() -> list[Any]:
    four = ((2, 4, 20, 16),) * 3
    unseen = rand(20, 20)
    unseen[3] = -np.inf
    return [
        attention(four, {}), attention(four, {"is_causal": 1, "scale": 0.3}, dtype=ml_dtypes.bfloat16),
        attention(((2, 20, 64),) * 3, {"q_num_heads": 4, "kv_num_heads": 4}),
        attention(((2, 8, 5, 16), (2, 2, 9, 16), (2, 2, 9, 24)), {}),
        attention(four, {}, rand(1, 1, 20, 20)), attention(four, {}, rand(2, 1, 20, 20)), attention(four, {}, unseen),
        attention(((1, 2, 3, 8), (1, 2, 0, 8), (1, 2, 0, 8)), {}),
    ]  # fmt: skip


def columns() -> Case:
    """Heads that begin within other columns: of a projection of queries, keys and values, after columns of something else."""
    x, m = rand(2, 20, 5 * 32), rand(1, 1, 20, 20, seed=1)
    node = packed_attention(2, 2, [(x, (32, 32, 32, 64))], m)
    split = np.split(x.astype(np.float32), (32, 64, 96), -1)[:3]
    want = reference(OPS["attention"], [*split, m.astype(np.float32)], {"q_num_heads": 2, "kv_num_heads": 2})[0].astype(x.dtype)
    source = libraries.select(node)
    assert isinstance(source, KernelSource), source
    return Case("columns", node, source, [x, m], [want], *CLOSE["float16"])


def test_convolutions() -> None:
    check([*convs(), *pointwise()])


def test_attention() -> None:
    check([*attentions(), columns()])


def test_what_is_asked_of_no_library() -> None:
    def why(*args: Any, precision: str = "fp32", **kw: Any) -> str:
        found = libraries.select(conv_node(*args, **kw)[0], precision)
        assert isinstance(found, Refusal), found
        return str(found)

    x, w = rand(2, 16, 9, 9), rand(24, 16, 3, 3)
    assert "channels-last" in why(x, w, PADDED, last=False)
    assert "both sides" in why(x, w, {"pads": [0, 0, 1, 1]}) and "both sides" in why(x, w, {"auto_pad": "SAME_UPPER"})
    assert "16 bytes" in why(rand(2, 3, 9, 9), rand(16, 3, 3, 3), {}) and "16 bytes" in why(x, rand(20, 16, 3, 3), {})
    assert "16 bytes" in why(x, rand(16, 1, 3, 3), {"group": 16})  # depthwise
    assert "tf32" in why(x.astype(np.float32), w.astype(np.float32), {})
    assert "images" in why(rand(1, 16, 5, 5, 5), rand(16, 16, 3, 3, 3), {})
    assert "epilogue" in why(x, w, PADDED, steps=[("sigmoid", [], 0)])
    transposed = make_node("conv_transpose", [x, rand(16, 24, 3, 3)])
    assert "conv_transpose" in str(libraries.select(transposed))
    four = ((2, 4, 20, 16),) * 3
    assert "windows" in str(attention(four, {"left_window_size": 2})) and "caps" in str(attention(four, {"softcap": 2.0}))
    assert "multiple of 8" in str(attention(((1, 1, 4, 12),) * 3, {})) and "128" in str(attention(((1, 1, 4, 136),) * 3, {}))
    assert "16-bit" in str(attention(four, {}, dtype=np.float32))
    for mask in (np.ones((20, 20), bool), rand(1, 20), rand(20, 10), rand(20, 20, dtype=np.float32)):
        assert "masks" in str(attention(four, {}, mask)), mask.shape
    past = make_node("attention", [rand(*s) for s in four] + [None] + [rand(2, 4, 3, 16)] * 2)
    assert "past" in str(libraries.select(past))
    assert select(past, rung="libraries").variant == "tensor cores"  # type: ignore[union-attr]


# ---- cuDNN, over a frontend that is not one


def run(monkeypatch: Any, c: Case, times: int = 1) -> tuple[FakeCudnn, Any, Command]:
    """A case by gpu.py and cudnn.py."""
    from graphmill.kernels.cuda.gpu import Gpu

    fake = Fake()
    fake.install(monkeypatch)
    fe = FakeCudnn(lambda call, name: fake.do(call, name))
    monkeypatch.setattr(cudnn, "frontend", lambda: fe)
    monkeypatch.setattr(cudnn, "handle", lambda device: made)
    made, gpu = cudnn.Cudnn(), Gpu()
    launch = c.source.bind(Call([np.shape(x) for x in c.operands], [w.shape for w in c.want]))
    arrays = [aligned(np.ascontiguousarray(x)) for x in (*c.operands, c.want[0], np.empty(64, np.uint8))]
    (kernel,) = gpu.load([c.source.text])
    command = Command(kernel, np.array([*(a.ctypes.data for a in arrays), *launch.ints], np.int64), launch.tiles, len(arrays))
    for _ in range(times):
        gpu.run([command])
    fe.keep = arrays  # type: ignore[attr-defined]
    return fe, gpu, command


def test_what_cudnn_is_asked_for(monkeypatch: Any) -> None:
    c = convs()[0]
    fe, gpu, command = run(monkeypatch, c, times=2)
    (graph,) = fe.graphs  # kept
    assert graph.steps == ["conv", "add addend", "add bias", "relu", "validate", "build", "plans", "build 0", "build 1", "build 2"]
    assert [(t["name"], t["dim"], t["stride"]) for t in graph.tensors] == [
        ("x", [2, 16, 9, 9], [1296, 1, 144, 16]), ("w", [24, 16, 3, 3], [144, 1, 48, 16]),
        ("addend", [2, 24, 9, 9], [1944, 1, 216, 24]), ("bias", [1, 24, 1, 1], [24, 1, 24, 24]),
    ]  # fmt: skip
    assert graph.more == {"padding": [1, 1], "stride": [1, 1], "dilation": [1, 1]}
    x, w, bias, addend, y = command.words[:5].tolist()
    places = {cudnn.uid(n): at for n, at in (("x", x), ("w", w), ("bias", bias), ("addend", addend), ("y", y))}
    assert [(g, p, n) for g, p, n, _ in fe.ran] == [(graph, places, 2)] * 2
    assert gpu.choices(command) == 4
    plans = gpu._kernels[command.kernel]._plans_of(command.words.tolist())
    plans.choose(3)
    captured = gpu.capture([command])
    assert len(fe.ran) == 2
    captured()
    assert fe.ran[-1][2] == 3 and fe.ran[-1][3] == gpu._recorder.ptr != fe.ran[0][3]
    for number, why in ((0, "no engine"), (1, "workspace")):
        with pytest.raises(library.CudaLibraryError, match=why):
            plans.choose(number)
    assert plans.chosen == 3
    command.words[0] += 2
    with pytest.raises(library.CudaLibraryError, match="multiples of 16 bytes"):
        gpu.run([command])


def test_a_text_may_name_the_plan(monkeypatch: Any) -> None:
    c = convs()[0]
    for number, found in ((3, 3), (0, 2), (60, 2)):  # 0 and 1 cannot be built
        named = dataclasses.replace(c, source=dataclasses.replace(c.source, source=f"{c.source.text}algorithm {number}\n"))
        fe, _, _ = run(monkeypatch, named)
        assert [n for _, _, n, _ in fe.ran] == [found]


def test_what_cudnn_is_asked_for_of_attention(monkeypatch: Any) -> None:
    fe, _, command = run(monkeypatch, attentions()[5])
    (graph,) = fe.graphs
    assert [(t["name"], t["dim"]) for t in graph.tensors] == [("mask", [2, 1, 20, 20]), *((n, [2, 4, 20, 16]) for n in "qkv")]
    assert [t["stride"] for t in graph.tensors] == [[400, 400, 20, 1], *[[1280, 320, 16, 1]] * 3]
    assert graph.more.pop("bias").about["name"] == "mask"
    assert graph.more == {"is_inference": True, "attn_scale": 0.25, "use_causal_mask": False}
    assert fe.ran[0][1][cudnn.uid("y")] == command.words[4]
    fe, _, command = run(monkeypatch, columns())
    assert [fe.ran[0][1][cudnn.uid(n)] - command.words[0] for n in "qkv"] == [0, 64, 128]
    fe, _, command = run(monkeypatch, attentions()[-1])  # without keys: cleared
    assert not fe.graphs and not fe.keep[3].any()  # type: ignore[attr-defined]


def test_without_a_plan_the_error_says_what_to_do(monkeypatch: Any) -> None:
    monkeypatch.setattr(FakeCudnn.__init__, "__defaults__", (0,))
    with pytest.raises(library.CudaLibraryError, match="rung='tensor'"):
        run(monkeypatch, convs()[0])


def test_without_cudnn_the_error_says_what_to_install(monkeypatch: Any) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(cudnn.importlib, "import_module", missing)
    cudnn.frontend.cache_clear()
    with pytest.raises(nvrtc.CudaUnavailable, match="pip install nvidia-cudnn-frontend"):
        cudnn.frontend()


def test_graphs_are_valid() -> None:
    """By cuDNN itself, which needs no GPU for that; for attention it does."""
    try:
        fe = cudnn.frontend()
        fe.backend_version()
    except (nvrtc.CudaUnavailable, RuntimeError) as e:
        pytest.skip(f"{e}: pip install nvidia-cudnn-frontend==1.26.* nvidia-cudnn-cu13")
    for c in convs():
        sizes = c.source.bind(Call([np.shape(x) for x in c.operands], [w.shape for w in c.want])).ints
        if 0 not in sizes[:8]:
            cudnn.graph(fe, library.read(c.source.text), sizes)
