"""Texts of the CPU's language in C++: what they compute is what the CPU's compiler makes of them, and how they read."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.terms import NotPortable
from graphmill.kernels.cuda.translate import MOST_INTS, Translated, translate
from graphmill.kernels.spec import Call, KernelSource, Launch

from ..cpu.harness import aligned_empty, launch_kernel
from .harness import ARCHITECTURES, check_compiles, needs_nvrtc, needs_shim

SLOTS = 2  # the result and scratch memory, then the integers a, b, c
RESULTS = 24
INTS = [(7, 3, 2), (-7, 3, 0), (7, -3, 1), (-7, -3, 5), (0, 0, 0), (5, 0, 9), (-(2**63), -1, 4), (2**40, 12, 3)]
HEAD = """
    y = param(p, 0)
    a = param(p, 2)
    b = param(p, 3)
    c = param(p, 4)
"""
BODIES = {
    "division": "st_i64(y, 0, a // b)\nst_i64(y, 1, a % b)\nst_i64(y, 2, a // 8)\nst_i64(y, 3, a % 8)\nst_i64(y, 4, a // 7)\n"
    "st_i64(y, 5, a % 7)\nst_i64(y, 6, a // -1)\nst_i64(y, 7, 100 // c)\nst_i64(y, 8, 100 % c)",
    "precedence": "st_i64(y, 0, a - (b - c))\nst_i64(y, 1, (a & 12) + (b | c) ^ 5)\nst_i64(y, 2, a >> 2 << 1)\nst_i64(y, 3, -(a + b) * c)\n"
    "st_i64(y, 4, ~a & b | c)\nst_i64(y, 5, 1 << (c & 31))\nst_i64(y, 6, a - -1)\nst_i64(y, 7, (a < b) == (b < c))\n"
    "st_i64(y, 8, not a < b)\nst_i64(y, 9, a * (b + c) - (a - c))\nst_i64(y, 10, (1 if a < b else 0) << (c + 40 & 63))",
    "chosen": "st_i64(y, 0, a if a < b else b if b < c else c)\nst_i64(y, 1, (a if a < b else 1) + (2 if b < c else 3))\n"
    "st_i64(y, 2, min(a, b, c))\nst_i64(y, 3, max(a, 1))\nst_i64(y, 4, abs(b))\nst_f64(y, 5, min(f64(a), 0.5))",
    "logic": "st_i64(y, 0, 0 <= a < b and b != 0)\nst_i64(y, 1, a < b or b < c and a < c)\nst_i64(y, 2, (a < b or b < c) and a < c)\n"
    "st_i64(y, 3, not (a and b))\nst_i64(y, 4, True and a < 1)\nst_i64(y, 5, False or c)\nst_i64(y, 6, b != 0 and a // b > 1)",
    "types": "v = a\nst_i64(y, 0, v)\nv = f32(a)\nst_f32(y, 2, v / f32(2))\nv = f64(b)\nst_f64(y, 2, v * 3)\nv = a < b\n"
    "st_i64(y, 3, v)\nv = i8(a)\nst_i64(y, 4, v + 1)\nst_i64(y, 5, -v)\nv += 1\nst_i64(y, 6, v)\nst_i64(y, 7, u8(a) + u8(b))\n"
    "st_i64(y, 8, i64(u64(a) // u64(7)))\nst_i64(y, 9, i64(u64(a) % 7))\nst_f32(y, 20, f32(1e-7) + 2)\nst_f64(y, 11, to_f64(inf))",
    "casts": "f = f64(a) * 0.75\nst_i64(y, 0, i64(f))\nst_i64(y, 1, i32(f))\nst_i64(y, 2, u8(f))\nst_i64(y, 3, i64(nan))\n"
    "st_i64(y, 4, to_i16(f))\nst_i64(y, 5, i64(-inf))\nst_i64(y, 6, bool(f))\nst_f32(y, 14, to_f16(f32(f)))",
    "loops": "s = 0\nfor i in range(c):\n    if i == 3:\n        continue\n    if i == 7:\n        break\n    s += i * a\n"
    "st_i64(y, 0, s)\nfor i in range(c, -2, -2):\n    s -= i\nst_i64(y, 1, s)\nk = c\nwhile k > 0:\n    k -= 1\n    if k == b:\n"
    "        break\n    s += k\nst_i64(y, 2, s + k)\nn = c\nfor j in range(n):\n    n = 1\n    s += j\nst_i64(y, 3, s)",
    "an index that is used behind its loop": "i = 100\nfor i in range(c):\n    i += 10\n    if i > 12:\n        break\nst_i64(y, 0, i)\n"
    "for k in range(b, c):\n    st_i64(y, 1, k)\n",
    "what one round leaves to the next": "for i in range(c):\n    if i == 0:\n        last = a\n    st_i64(y, i, last)\n    last = last + i\n"
    "t = 0\nfor i in range(c):\n    if i % 2 == 0:\n        odd = i\n    if i % 2 == 1:\n        t += odd\nst_i64(y, 12, t)",
    "branches": "if a < b:\n    u = 1\n    w = a\nelif b < c:\n    u = 2\n    w = b\nelse:\n    u = 3\n    w = c\nst_i64(y, 0, u * 10 + w)\n"
    "if c > 2:\n    v = f32(1)\n    st_f32(y, 2, v)\nelse:\n    v = 2\n    st_i64(y, 2, v)\nif True:\n    st_i64(y, 3, 1)\n"
    "if c > 3:\n    st_i64(y, 4, a)\n    return\nst_i64(y, 5, b)",
    "names of C++": "union = a\ntrue = b\nnew = c\nfloat = union + true\nint = new * float\nst_i64(y, 0, int)\n"
    "st_f64(y, 1, floor(f64(int)))\nTHREADS = 3\nst_i64(y, 2, THREADS)",
    "memory": "for i in range(8):\n    st_u8(y, i, u8(i * 3))\nmemcpy(y + 8, y, 8)\nmemset(y + 16, 255, 8)\nst_i64(y, 3, ld_i8(y, 16) + 1)\n"
    "st_i64(y, 4, bits_f32_i32(f32(1.5)))\nst_i64(y, 5, ld_u16(y, 1))",
    "calls": "st_i64(y, 0, clipped(a, b, c))\nst_f64(y, 1, clipped(f64(a), f64(b), f64(c)))\nst_i64(y, 2, sign_of(a) * 2 + sign_of(clipped(b, a, c)))\n"
    "write(y, 3, c)\nst_i64(y, 4, where(lt(a, b), a, c))\nst_f32(y, 10, exp(f32(0.5)))",
}  # fmt: skip
SUBROUTINES = """
SCALE = 3 * 4

@function
def clipped(x, low, high):
    if x < low:
        return low
    return high if x > high else x


@function
def sign_of(x):
    x = 1 if x > 0 else -1 if x < 0 else 0
    return x


@function
def write(y, i, x):
    st_i64(y, i, x * SCALE)
"""


def text_of(name: str) -> str:
    body = HEAD + "\n".join("    " + line for line in BODIES[name].split("\n")) + "\n"
    return (SUBROUTINES if name == "calls" else "") + "\ndef kernel(p, tile, ntiles):" + body


@functools.cache
def translated() -> dict[str, Translated]:
    """All texts in C++, compiled in one program."""
    out = {name: translate(text_of(name), SLOTS) for name in BODIES}
    shim.load(t.cuda for t in out.values())
    return out


@needs_shim
@pytest.mark.parametrize("name", BODIES)
def test_the_same_as_on_the_cpu(name: str) -> None:
    cuda = translated()[name]
    for ints in INTS:
        want, got, scratch = (aligned_empty((RESULTS,), np.dtype(np.int64)) for _ in range(3))
        launch_kernel(KernelSource(text_of(name), lambda call, ints=ints: Launch(ints)), Call([], [(RESULTS,)]), [], [want])
        words = [got.ctypes.data, scratch.ctypes.data, *ints][: cuda.words - 1]
        shim.load([cuda.cuda])[cuda.cuda](np.array([*words, 1], np.int64), 1)
        np.testing.assert_array_equal(got, want, err_msg=f"{name} of {ints}\n{cuda.cuda}")


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiled_for_gpus(arch: str) -> None:
    check_compiles([t.cuda for t in translated().values()], arch)


def test_how_it_reads() -> None:
    text = """
def kernel(p, tile, ntiles):
    n = param(p, 3)
    total = 0
    for i in range(n * tile // ntiles, n):
        if 0 <= i < 5 and i != 3:
            total += ld_i32(param(p, 0), i)
        else:
            total = -total
    st_i64(param(p, 1), tile, total)
"""
    assert (
        translate(text, 3).cuda
        == """KERNEL(128, 5) {
    const i64 ntiles = p[4], tile = i64(blockIdx.x) * THREADS + threadIdx.x;
    if (tile >= ntiles) return;
    i64 n = p[3];
    i64 total = 0;
    for (i64 i = floordiv(n * tile, ntiles); i < n; i++) {
        if (0 <= i && i < 5 && i != 3) {
            total += i64(ld_i32(p[0], i));
        } else {
            total = -total;
        }
    }
    st_i64(p[1], tile, total);
}
"""
    )


def test_where_the_integers_are() -> None:
    def of(line: str) -> Translated:
        return translate(f"def kernel(p, tile, ntiles):\n    {line}\n", 2)

    assert of("st_i64(param(p, 0), 0, param(p, 2))").words == 4
    computed = of("st_i64(param(p, 0), 0, param(p, 2 + param(p, 3)))")
    assert (computed.words, computed.computes_index, computed.in_memory) == (2 + MOST_INTS + 1, True, False)
    addressed = of("st_f32(param(p, 0), 0, ld_f32(p + 8 * param(p, 2), 1))")
    assert (addressed.words, addressed.in_memory) == (4, True)
    assert "const i64* ints = (const i64*)p[2] - 2;" in addressed.cuda and "ld_f32(i64(ints) + 8 * ints[2], 1)" in addressed.cuda


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("v = ldv_f32(param(p, 0), 0)", "works on vectors"),
        ("n = LANES", "works on vectors"),
        ("gemm_panel(p)", "works on vectors"),
        ("atomic_add(param(p, 0), 1)", "no such name|do not have"),
        ("x = f32(1) + f64(1)", "different types"),
        ("x = f32(1) % f32(1)", "floats"),
        ("x = 1 / param(p, 0)", "does not go"),
        ("x = [1]", "do not have"),
        ("del p", "do not have"),
        ("x = y", "do not have"),
        ("x = add(f32(1), param(p, 0))", "different types"),
        ("for i in range(0, 5, param(p, 0)): pass", "step"),
    ],
)
def test_what_is_refused(line: str, reason: str) -> None:
    with pytest.raises(NotPortable, match=reason):
        translate(f"def kernel(p, tile, ntiles):\n    {line}\n", 2)
