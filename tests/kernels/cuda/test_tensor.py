"""The tensor cores' operations and asynchronous copies on the CPU, against numpy; the same texts compile for GPUs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.kernels.cuda import shim

from .harness import ARCHITECTURES, check_compiles, needs_nvrtc, needs_shim

# Where element i of a lane's operands lies, as the PTX ISA has it ("Matrix Fragments for mma.m16n8k16 with floating point type",
# "mma.m16n8k8", "mma.m16n8k32").
PLACES = {
    "16": ("i < 2 || (i >= 4 && i < 6) ? g : g + 8", "t * 2 + (i & 1) + (i >= 4 ? 8 : 0)", "t * 2 + (i & 1) + (i >= 2 ? 8 : 0)"),
    "8": ("i == 0 || i == 2 ? g : g + 8", "t + (i >= 2 ? 4 : 0)", "t + 4 * i"),
    "32": ("i < 4 || (i >= 8 && i < 12) ? g : g + 8", "t * 4 + (i & 3) + (i >= 8 ? 16 : 0)", "t * 4 + (i & 3) + (i >= 4 ? 16 : 0)"),
}


def product(name: str, depth: int, element: str, result: str) -> str:
    """c (16 x 8) += a (16 x depth) * b (depth x 8), operands read element by element."""
    row, column, k = PLACES[str(depth)]
    return f"""KERNEL(32, 3) {{
    const {element} *x = (const {element}*)p[0], *y = (const {element}*)p[1];
    {result}* z = (({result}*)p[2]) + blockIdx.x * 128;
    int g = threadIdx.x >> 2, t = threadIdx.x % 4;
    union {{ u32 words[4]; {element} each[16 / sizeof({element})]; }} a;
    union {{ u32 words[2]; {element} each[8 / sizeof({element})]; }} b;
    for (int i = 0; i < {depth // 2}; i++) a.each[i] = x[({row}) * {depth} + {column}];
    for (int i = 0; i < {depth // 4}; i++) b.each[i] = y[({k}) * 8 + g];
    {result} c[4];
    for (int i = 0; i < 4; i++) c[i] = z[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)];
    {name}(c, a.words, b.words);
    for (int i = 0; i < 4; i++) z[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)] = c[i];
}}
"""


PRODUCTS = {
    "mma_f16": (16, "u16", "f32"), "mma_bf16": (16, "u16", "f32"), "mma_tf32": (8, "u32", "f32"), "mma_s8s8": (32, "i8", "i32"),
    "mma_s8u8": (32, "i8", "i32"), "mma_u8s8": (32, "u8", "i32"), "mma_u8u8": (32, "u8", "i32"),
}  # fmt: skip

# x: 32 rows of 8 16-bit elements. Lane l gives the address of row l.
MATRICES = """KERNEL(32, 3) {
    __shared__ __align__(16) u16 m[256];
    for (int i = threadIdx.x; i < 256; i += 32) m[i] = ((u16*)p[0])[i];
    __syncwarp();
    u32* y = (u32*)p[1] + 12 * threadIdx.x;
    u32 four[4], two[2];
    ldmatrix_x4(four, m + 8 * threadIdx.x);
    for (int i = 0; i < 4; i++) y[i] = four[i];
    ldmatrix_x4_trans(four, m + 8 * threadIdx.x);
    for (int i = 0; i < 4; i++) y[4 + i] = four[i];
    ldmatrix_x2(two, m + 8 * (threadIdx.x % 16));
    y[8] = two[0], y[9] = two[1];
    ldmatrix_x2_trans(two, m + 8 * (threadIdx.x % 16));
    y[10] = two[0], y[11] = two[1];
}
"""

# c (64 x 32, f32) = a (64 x 64, f16) * b (64 x 32, f16), four warps of 16 rows; slices of 16 columns of a and rows of b are copied
# while the slice before is multiplied.
GEMM = """KERNEL(128, 3, 6144) {
    const u16 *a = (const u16*)p[0], *b = (const u16*)p[1];
    f32* c = (f32*)p[2];
    u16 *as = SHARED(u16), *bs = as + 2 * 64 * 16;
    int t = threadIdx.x, warp = t / 32, lane = t % 32;
    auto fetch = [&](int k) {
        copy_async<16>(as + k % 2 * 1024 + t * 8, a + t / 2 * 64 + k * 16 + t % 2 * 8);
        copy_async<8>(bs + k % 2 * 512 + t * 4, b + (k * 16 + t / 8) * 32 + t % 8 * 4);
        copy_async_commit();
    };
    f32 sums[4][4] = {};
    fetch(0);
    for (int k = 0; k < 4; k++) {
        if (k < 3) fetch(k + 1);
        else copy_async_commit();
        copy_async_wait<1>();
        __syncthreads();
        u32 x[4], y[2];
        ldmatrix_x4(x, as + k % 2 * 1024 + (warp * 16 + lane % 16) * 16 + lane / 16 * 8);
        for (int n = 0; n < 4; n++) {
            ldmatrix_x2_trans(y, bs + k % 2 * 512 + lane % 16 * 32 + n * 8);
            mma_f16(sums[n], x, y);
        }
        __syncthreads();
    }
    for (int n = 0; n < 4; n++)
        for (int r = 0; r < 4; r++) c[(warp * 16 + lane / 4 + 8 * (r / 2)) * 32 + n * 8 + 2 * (lane % 4) + r % 2] = sums[n][r];
}
"""

COPIES = """KERNEL(32, 3) {
    __shared__ __align__(16) u8 m[32 * 32];
    const u8* x = (const u8*)p[0] + 32 * threadIdx.x;
    u8 *at = m + 32 * threadIdx.x, *y = (u8*)p[1] + 32 * threadIdx.x;
    copy_async<16>(at, x, threadIdx.x % 17);
    copy_async<8>(at + 16, x + 16, threadIdx.x % 9);
    copy_async_commit();
    copy_async<4>(at + 24, x + 24, threadIdx.x % 5);
    copy_async_commit();
    copy_async_wait<1>();
    for (int i = 0; i < 24; i++) y[i] = at[i];
    copy_async_wait<0>();
    for (int i = 24; i < 28; i++) y[i] = at[i];
}
"""

TF32 = "KERNEL(256, 3) { u32 i = blockIdx.x * 256 + threadIdx.x; ((u32*)p[1])[i] = float_to_tf32(((f32*)p[0])[i]); }\n"
WITHOUT_WAIT = COPIES.replace("    copy_async_wait<0>();\n", "")
TEXTS = [*(product(name, *about) for name, about in PRODUCTS.items()), MATRICES, GEMM, COPIES, TF32, WITHOUT_WAIT]
either_way = pytest.mark.parametrize("backwards", [False, True])


def run(text: str, *arrays: np.ndarray, blocks: int = 1, backwards: bool = False) -> np.ndarray:
    """What the last array holds after a text of TEXTS has run on copies whose ends are guarded."""
    own = [shim.guarded(a) for a in arrays]
    words = [a.ctypes.data for a in own] + [0] * (3 - len(own))
    shim.load(TEXTS)[text](np.array(words, np.int64), blocks, backwards=backwards)
    return own[-1]


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_texts_compile_for_gpus(arch: str) -> None:
    check_compiles(TEXTS, arch)


@needs_shim
@pytest.mark.parametrize("name", ["mma_f16", "mma_bf16", "mma_tf32"])
def test_products_of_floats(name: str) -> None:
    depth, element, result = PRODUCTS[name]
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, depth), (depth, 8), (16, 8)))
    if name == "mma_tf32":  # the last 13 bits of an operand are not looked at
        x, y = a, b
        a, b = ((v.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for v in (a, b))
    else:
        x, y = (v.astype(np.float16 if name == "mma_f16" else ml_dtypes.bfloat16) for v in (a, b))
        a, b = x, y
    got = run(product(name, depth, element, result), x, y, np.stack([c, 0 * c]), blocks=2)
    want = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(got[0], want + c, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got[1], want, rtol=1e-6, atol=1e-6)


@needs_shim
@pytest.mark.parametrize("name", ["mma_s8s8", "mma_s8u8", "mma_u8s8", "mma_u8u8"])
def test_products_of_integers(name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(np.iinfo(t).min, np.iinfo(t).max, shape, t, endpoint=True)
            for t, shape in (({"s": np.int8, "u": np.uint8}[name[4]], (16, 32)), ({"s": np.int8, "u": np.uint8}[name[6]], (32, 8))))  # fmt: skip
    a[0], b[:, 0] = np.iinfo(a.dtype).min, np.iinfo(b.dtype).min
    c = np.full((16, 8), 2**31 - 1, np.int32)
    got = run(product(name, *PRODUCTS[name]), a, b, c)
    want = (a.astype(np.int64) @ b.astype(np.int64) + c).astype(np.int32)
    assert (got == want).all()


@needs_shim
def test_matrices_of_shared_memory() -> None:
    m = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    y = run(MATRICES, m, np.zeros((32, 12), np.uint32)).view(np.uint16).reshape(32, 12, 2)
    for lane in range(32):
        g, t = lane // 4, 2 * (lane % 4)
        assert (y[lane, :4] == m[:, g, t : t + 2]).all()
        assert (y[lane, 4:8] == m[:, t : t + 2, g]).all()
    assert (y[:, 8:10] == y[:, :2]).all() and (y[:, 10:] == y[:, 4:6]).all()


@needs_shim
@either_way
def test_a_matrix_product_with_copies_under_way(backwards: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((64, 64)).astype(np.float16), rng.standard_normal((64, 32)).astype(np.float16)
    got = run(GEMM, a, b, np.zeros((64, 32), np.float32), backwards=backwards)
    np.testing.assert_allclose(got, a.astype(np.float64) @ b.astype(np.float64), rtol=2e-6, atol=2e-5)


@needs_shim
@either_way
def test_copies(backwards: bool) -> None:
    x = np.random.default_rng(0).integers(1, 256, (32, 32)).astype(np.uint8)
    y = run(COPIES, x, np.zeros_like(x), backwards=backwards)
    for lane in range(32):
        for start, size in ((0, 16), (16, 8), (24, 4)):
            n = lane % (size + 1)
            assert (y[lane, start : start + n] == x[lane, start : start + n]).all()
            assert not y[lane, start + n : start + size].any()


@needs_shim
def test_a_copy_that_nobody_waited_for_is_seen() -> None:
    x = np.ones((32, 32), np.uint8)
    at_once = run(WITHOUT_WAIT, x, np.zeros_like(x), backwards=True)
    late = run(WITHOUT_WAIT, x, np.zeros_like(x))
    assert (at_once[:, :24] == late[:, :24]).all() and (at_once[4::5, 24:28] == 1).all()
    assert (late[:, 24:28] == 255).all()


@needs_shim
def test_tf32_is_rounded_half_away_from_zero() -> None:
    x = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint64).astype(np.uint32)
    x[:6] = 0x3F801000, 0x3F800FFF, 0xBF801000, 0x7F7FFFFF, 0x7F800000, 0x00001000
    got = run(TF32, x.view(np.float32), np.zeros(4096, np.uint32), blocks=16)
    assert got[:6].tolist() == [0x3F802000, 0x3F800000, 0xBF802000, 0x7F800000, 0x7F800000, 0x00002000]
    with np.errstate(over="ignore", invalid="ignore"):
        exact, rounded = x.view(np.float32).astype(np.float64), got.view(np.float32).astype(np.float64)
        step = np.abs((x + np.uint32(0x2000)).view(np.float32).astype(np.float64) - exact)
        finite = np.isfinite(exact) & np.isfinite(rounded) & np.isfinite(step)
        assert not (got[finite] & 0x1FFF).any()
        assert (np.abs(rounded - exact)[finite] <= 0.5 * step[finite]).all()
    assert np.isnan(got.view(np.float32)[np.isnan(exact)]).all()
