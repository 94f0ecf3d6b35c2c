"""Calls of NVIDIA's libraries: which products become one, what their texts say, and that numpy, which stands for the libraries, makes
of a text and its words what the operators' references say."""

from __future__ import annotations

import gc
from typing import Any

import graphmill as gm
import ml_dtypes
import numpy as np
import pytest
from graphmill.engine.profile import operator
from graphmill.ir.errors import InputError
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, TensorType
from graphmill.kernels.cuda import libraries, library, nvrtc
from graphmill.kernels.cuda.driver import Command
from graphmill.kernels.cuda.source import words_of
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call, KernelSource, Refusal
from onnx import parser as onnx_parser

from ..cpu.harness import aligned, aligned_empty, assert_close, make_node, reference
from ..cpu.test_gemm import SHAPES, expect, fused, rand
from .fake_cublaslt import FakeLt
from .fake_cupy import Fake
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim
from .test_gemm import CLOSE


def case(name: str, arrays: list, attrs: dict[str, Any] | None = None, types: list | None = None, constants: Any = ()) -> Case:
    node = make_node(name, arrays, attrs, types=types, constants=constants)
    source = select(node, rung="libraries")
    assert isinstance(source, KernelSource) and source.variant == "cublaslt", source
    wide = [a.astype(np.float64) for a in arrays if a is not None]
    want = [reference(node.op, wide, dict(attrs or {}))[0].astype(node.results[0].tensor.dtype.np)]
    return Case(f"{name} {[a.shape for a in arrays]} {attrs}", node, source, arrays, want, *CLOSE[arrays[0].dtype.name])


def products() -> list[Case]:
    cases = [
        case("matmul", [rand(*a), rand(*b, seed=1)]) for a, b in SHAPES if a[:-2] == b[:-2] or 1 in (len(a), len(b)) or not b[:-2]
    ]
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        cases.append(case("matmul", [rand(3, 5, 40, dtype=dtype), rand(3, 40, 6, dtype=dtype, seed=1)]))
        cases.append(case("matmul", [rand(3, 5, 40, dtype=dtype), rand(1, 1, 40, 6, dtype=dtype, seed=1)]))
    for columns in (7, 8):  # stored transposed, and not
        arrays = [rand(2, 5, 16, dtype=np.float16), rand(16, columns, dtype=np.float16, seed=1)]
        cases.append(case("matmul", arrays, constants=(1,)))
        assert ("transpose 0 1" in cases[-1].source.text) == bool(cases[-1].source.pack) == (columns == 7)
    rows = symbol("rows")
    for m in (3, 70, 0):  # one text serves all
        x, w = rand(2, m, 24), rand(24, 130, seed=1)
        cases.append(case("matmul", [x, w], types=[TensorType(F32, (2, rows, 24)), TensorType(F32, w.shape)]))
    for trans_a in (0, 1):
        for trans_b in (0, 1):
            a, b = rand(*((21, 5) if trans_a else (5, 21))), rand(*((37, 21) if trans_b else (21, 37)), seed=1)
            for c in (None, rand(37, seed=2), rand(5, 37, seed=2)):
                beta = 1.0 if c is not None and c.ndim == 1 else 2.0
                attrs = {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": beta}
                cases.append(case("gemm", [a, b, *([] if c is None else [c])], attrs))
    return cases


def test_products() -> None:
    check(products())


STEPS: dict[str, list] = {
    "bias": [("add", [rand(50, seed=5)], 0)],
    "bias in front": [("add", [rand(50, seed=5)], 1)],
    "relu": [("relu", [], 0)],
    "bias, relu": [("add", [rand(50, seed=5)], 0), ("relu", [], 0)],
    "residual": [("add", [rand(2, 5, 50, seed=6)], 0)],
    "residual, bias, relu": [("add", [rand(2, 5, 50, seed=6)], 1), ("add", [rand(50, seed=5)], 0), ("relu", [], 0)],
    "bias, residual": [("add", [rand(50, seed=5)], 0), ("add", [rand(2, 5, 50, seed=6)], 0)],
}
OTHERS: dict[str, list] = {
    "sigmoid": [("sigmoid", [], 0)],
    "erf gelu": [("gelu", [], 0)],
    "relu, bias": [("relu", [], 0), ("add", [rand(50, seed=5)], 0)],
    "two biases": [("add", [rand(50, seed=5)], 0), ("add", [rand(50, seed=6)], 0)],
    "two residuals": [("add", [rand(2, 5, 50, seed=6)], 0), ("add", [rand(2, 5, 50, seed=7)], 0)],
    "a scale for each channel": [("mul", [rand(50, seed=5)], 0)],
    "bias less sums": [("sub", [rand(50, seed=5)], 1)],
}


def epilogue(steps: list, a: Any = None, b: Any = None) -> Case | Refusal:
    a, b = rand(2, 5, 33) if a is None else a, rand(33, 50, seed=1) if b is None else b
    node, extra = fused(make_node("matmul", [a, b], constants=(1,)), steps)
    source = libraries.select(node)
    if isinstance(source, Refusal):
        return source
    return Case(f"{steps}", node, source, [a, b, *extra], [expect(steps, a @ b)], 1e-4, 1e-4)


def gelu(approximate: str) -> KernelSource | Refusal:
    node, _ = fused(make_node("matmul", [rand(4, 8), rand(8, 6)]), [("add", [rand(6)], 0), ("gelu", [], 0)])
    node.regions[0].nodes[-1].attrs["approximate"] = approximate
    return libraries.select(node)


def test_epilogues() -> None:
    cases = [epilogue(steps) for steps in STEPS.values()]
    assert all(isinstance(c, Case) for c in cases), [c for c in cases if isinstance(c, Refusal)]
    check(cases)  # type: ignore[arg-type]
    text = gelu("tanh")
    assert isinstance(text, KernelSource) and "activation gelu_tanh\n" in text.text and "bias 2\n" in text.text


@pytest.mark.parametrize("steps", OTHERS.values(), ids=OTHERS)
def test_other_epilogues_are_left_to_our_kernels(steps: list) -> None:
    assert "epilogue" in str(epilogue(steps))


def test_what_is_asked_of_no_library() -> None:
    assert isinstance(gelu("none"), Refusal)
    assert "reduction" in str(epilogue(STEPS["bias"], rand(2, 5, 0), rand(0, 50)))
    for a, b in (((2, 3, 5, 7), (3, 7, 30)), ((3, 1, 3, 7), (2, 7, 9))):
        assert "batches" in str(libraries.select(make_node("matmul", [rand(*a), rand(*b)])))
    assert "i32" in str(libraries.select(make_node("matmul", [np.ones((2, 2), np.int32)] * 2)))
    assert "no library" in str(libraries.select(make_node("exp", [rand(3)])))


@needs_shim
@pytest.mark.parametrize("rung", ["libraries", "scalar"])
def test_examples(rung: str) -> None:
    cases, refused = cases_of(["matmul", "gemm", "conv", "attention"], rung)
    assert all("has no kernel" in r or "scores are asked for" in r for r in refused), refused
    assert (rung == "libraries") == any(c.source.variant == "cublaslt" for c in cases)
    for c in cases:
        c.rtol, c.atol = 2e-3, 2e-3
    check(cases)


def test_a_text() -> None:
    source = epilogue(STEPS["residual, bias, relu"]).source  # type: ignore[union-attr]
    assert (
        source.text
        == """LIBRARY cublaslt matmul
words 14
type f32
compute f32
transpose 0 0
a 0
b 1
bias 3
addend 2
alpha 0x1.0000000000000p+0
beta 0x1.0000000000000p+0
activation relu
y 4
scratch 5
sizes 6
"""
    )
    assert library.is_library(source.text) and not library.is_library("KERNEL(1, 1) {}") and words_of(source.text) == 14
    x = make_node("matmul", [rand(4, 8), rand(8, 6)])
    kinds = [(select(x, p, rung).variant, "compute tf32" in select(x, p, rung).text)  # type: ignore[union-attr]
             for p in ("fp32", "tf32") for rung in ("libraries", "tensor", "scalar")]  # fmt: skip
    assert kinds == [("cublaslt", False), *[("matmul", False)] * 2, ("cublaslt", True), ("matmul.tf32", False), ("matmul", False)]


# ---- the rung of scalar kernels


def scalar() -> list[Case]:
    """Products, convolutions and attention of 16-bit floats without tensor cores."""
    cases = []
    rng = np.random.default_rng(0)
    last = channels_last(4)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        for name, shapes, attrs in (
            ("matmul", ((9, 40), (40, 70)), {}), ("matmul", ((2, 70, 33), (2, 33, 65)), {}), ("gemm", ((5, 21), (37, 21)), {"transB": 1}),
            ("conv", ((2, 16, 9, 9), (24, 16, 3, 3)), {}), ("conv_transpose", ((2, 8, 5, 5), (8, 12, 3, 3)), {"strides": [2, 2]}),
            ("attention", ((2, 3, 20, 16),) * 3, {"is_causal": 1}),
        ):  # fmt: skip
            arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
            want = reference(OPS[name], [a.astype(np.float64) for a in arrays], attrs)[0].astype(dtype)
            node = make_node(name, arrays, attrs)
            if name == "conv":
                for v in (node.operands[0], node.results[0]):
                    v.type = v.tensor.with_(layout=last)
            source, tensor = select(node, rung="scalar"), select(node)
            assert isinstance(source, KernelSource) and "tensor" in tensor.variant and "mma_" not in source.text, source  # type: ignore[union-attr]
            assert source.text == select(node, "tf32", "scalar").text  # type: ignore[union-attr]
            cases.append(Case(f"{name} {shapes}", node, source, arrays, [want], *CLOSE[np.dtype(dtype).name]))
    return cases


@needs_shim
def test_scalar_kernels() -> None:
    check(scalar())


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_scalar_kernels_compile_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in scalar()], arch)


# ---- cuBLASLt, over a library that is not one


def test_cublaslt(monkeypatch: Any) -> None:
    """All products and epilogues through gpu.py and cublaslt.py, run and captured, in memory of the host."""
    from graphmill.kernels.cuda import cublaslt
    from graphmill.kernels.cuda.gpu import Gpu

    fake = Fake()
    fake.install(monkeypatch)
    gpu, lt = Gpu(), FakeLt(lambda call, name: fake.do(call, name))
    monkeypatch.setattr(cublaslt, "library", lambda: lt)
    monkeypatch.setattr(cublaslt, "handle", lambda device: made)
    made = cublaslt.CublasLt()
    for c in [*products(), *map(epilogue, STEPS.values())]:
        assert isinstance(c, Case)
        command, y, keep = bound(gpu, c)
        for captured in (False, True):
            y[...] = np.nan
            gpu.capture([command])() if captured else gpu.run([command])
            assert_close(y, c.want[0], c.rtol, c.atol, f"{c.what}\n{c.source.text}")
        del keep
    assert "cublasLtMatmul" in fake.calls and set(lt.used) == {0}
    assert gpu.choices(command) == 3
    gpu._kernels[command.kernel]._plan(command.words.tolist()).chosen = 2
    gpu.run([command])
    assert lt.used[-1] == 2
    lt.refused = {0, 2}
    for _ in range(2):  # another one serves, from then on
        gpu.run([command])
    assert lt.used[-2:] == [1, 1]
    lt.refused = {0, 1, 2}
    with pytest.raises(library.CudaLibraryError, match="cublasLtMatmul: an unsupported value"):
        gpu.run([command])
    assert lt.log.count("cublasLtMatmulDescCreate") - lt.log.count("cublasLtMatmulDescDestroy") == plans(gpu)
    gpu._kernels.clear()
    gc.collect()
    assert not lt.living


def plans(gpu: Any) -> int:
    return sum(len(call._plans) for call in gpu._kernels)


def bound(gpu: Any, c: Case) -> tuple[Command, np.ndarray, list]:
    """A case as a command on memory of the host, its result, and what holds the memory."""
    launch = c.source.bind(Call([np.shape(x) for x in c.operands], [w.shape for w in c.want]))
    arrays = [aligned(c.source.pack.get(i, np.ascontiguousarray)(x)) for i, x in enumerate(c.operands)]
    y, scratch = aligned_empty(c.want[0].shape, c.want[0].dtype), np.empty(64, np.uint8)
    words = [*(a.ctypes.data for a in (*arrays, y, scratch)), *launch.ints]
    (kernel,) = gpu.load([c.source.text])
    return Command(kernel, np.array(words, np.int64), launch.tiles, len(arrays) + 2), y, [*arrays, scratch]


def test_cublaslt_says_what_is_wrong(monkeypatch: Any) -> None:
    from graphmill.kernels.cuda import cublaslt

    monkeypatch.setattr(cublaslt, "candidates", lambda *_: ["/nowhere/libcublasLt.so.13"])
    cublaslt.library.cache_clear()
    with pytest.raises(nvrtc.CudaUnavailable, match=r"pip install nvidia-cublas.*nowhere"):
        cublaslt.library()
    lt = FakeLt(lambda call, name: call(), algorithms=0)
    monkeypatch.setattr(cublaslt, "library", lambda: lt)
    c = products()[0]
    call = cublaslt.Matmul(cublaslt.CublasLt(), library.read(c.source.text), lambda *_: None)
    with pytest.raises(library.CudaLibraryError, match="rung='tensor'"):
        call(np.array([64] * 4 + [5, 30, 7, 1, 7, 30, 0, 0], np.int64), 1)
    lt.cublasLtMatmulDescCreate = lambda *_: 15
    with pytest.raises(library.CudaLibraryError, match="MatmulDescCreate: another error"):
        call(np.array([64] * 4 + [6, 30, 7, 1, 7, 30, 0, 0], np.int64), 1)


# ---- whole models

MODEL = """<ir_version: 10, opset_import: ["" : 21]> m (float[N, 24] x) => (float[N, 8] y)
    <float[24, 32] w, float[32] b, float[32, 8] v> {
    h = Gemm (x, w, b)  r = Relu (h)  s = MatMul (r, v)  y = Softmax (s) }"""


def model(rung: str, **options: Any) -> gm.Executable:
    proto = onnx_parser.parse_model(MODEL.replace("float[24, 32] w", "float[24, 32] w = {" + ", ".join(["0.125"] * 768) + "}")
                                    .replace("float[32] b", "float[32] b = {" + ", ".join(map(str, np.linspace(-2, 2, 32))) + "}")
                                    .replace("float[32, 8] v", "float[32, 8] v = {" + ", ".join(["0.5"] * 256) + "}"))  # fmt: skip
    return gm.compile(proto, "cuda", rung=rung, **{"device": "shim"} | options)


@needs_shim
def test_models_give_the_same_on_every_rung() -> None:
    x = rand(5, 24)
    got = {}
    for rung, variants in (
        ("libraries", {"cublaslt"}),
        ("tensor", {"gemm.tensor", "matmul.tensor"}),
        ("scalar", {"gemm", "matmul"}),
    ):
        exe = model(rung, precision="fp16")
        got[rung] = [exe.run({"x": x[:n]})["y"] for n in (5, 5, 3)]
        found = {s.source.variant for s in exe.plan.kernels()}
        assert variants <= found and not found & {"cublaslt", "gemm.tensor", "matmul.tensor"} - variants
    for rung in ("libraries", "scalar"):
        for a, b in zip(got[rung], got["tensor"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "steps, found",
    [
        ("b = Add (a, v)  y = Gelu (b)", ["matmul+add", "gelu"]),
        ('b = Add (a, v)  y = Gelu <approximate = "tanh"> (b)', ["matmul+add+gelu"]),
        ("b = Add (a, v)  c = Add (b, z)  y = Relu (c)", ["matmul+add+add+relu"]),
        ("b = Relu (a)  y = Add (b, v)", ["matmul+relu", "add"]),
        ("b = Sigmoid (a)  y = Mul (a, b)", ["matmul", "swish"]),
    ],
)
def test_what_joins_a_product_is_what_the_library_does(steps: str, found: list[str]) -> None:
    proto = onnx_parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]> m
        (float[N, 8] x, float[8, 16] w, float[16] v, float[N, 16] z) => (float[N, 16] y) {{ a = MatMul (x, w)  {steps} }}""")
    x = {"x": rand(5, 8), "w": rand(8, 16, seed=1), "v": rand(16, seed=2), "z": rand(5, 16, seed=3)}
    exes = {rung: gm.compile(proto, "cuda", rung=rung, device="shim") for rung in ("libraries", "tensor")}
    assert [operator(s.node) for s in exes["libraries"].plan.kernels()] == found
    assert len(list(exes["tensor"].plan.kernels())) == 1
    np.testing.assert_allclose(exes["libraries"].run(x)["y"], exes["tensor"].run(x)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows, found", [(128, ["matmul+add", "gelu"]), (8, ["matmul+add+gelu"]), ("N", ["matmul+add", "gelu"])])
def test_little_work_is_not_worth_a_pass_of_its_own(rows: Any, found: list[str]) -> None:
    proto = onnx_parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]> m (float[{rows}, 768] x, float[768, 1024] w,
        float[1024] v) => (float[{rows}, 1024] y) {{ a = MatMul (x, w)  b = Add (a, v)  y = Gelu (b) }}""")
    exe = gm.compile(proto, "cuda", rung="libraries", device="null")
    assert [operator(s.node) for s in exe.plan.kernels()] == found


def test_calls_share_their_workspace() -> None:
    """Of a hundred products, each with a residual that lives longer than the product in between."""
    lines = [
        f"a{i} = MatMul (x{i}, w)  b{i} = Softmax (a{i})  c{i} = MatMul (b{i}, w)  x{i + 1} = Add (c{i}, x{i})" for i in range(50)
    ]
    proto = onnx_parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]>
        m (float[N, 4] x0, float[4, 4] w) => (float[N, 4] x50) {{ {" ".join(lines)} }}""")
    exe = gm.compile(proto, "cuda", device="null", rung="libraries")
    exe.run({"x0": rand(5, 4), "w": rand(4, 4)})
    driver = exe.device.driver  # type: ignore[attr-defined]
    assert sum(c.variant == "cublaslt" for c in (s.source for s in exe.plan.kernels())) == 100
    assert library.SCRATCH < sum(driver.live.values()) < 1.1 * library.SCRATCH


def test_rungs_are_for_cuda() -> None:
    with pytest.raises(InputError, match="rung = 'libraries' is offered by target = 'cuda'"):
        gm.compile(onnx_parser.parse_model(MODEL), rung="libraries")
    with pytest.raises(InputError, match="expected one of libraries, tensor, scalar"):
        gm.compile(onnx_parser.parse_model(MODEL), "cuda", rung="best", device="null")
