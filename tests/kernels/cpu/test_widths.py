"""Kernels of vectors that this host's registers are not as wide as, run and held against the references: LLVM splits or joins them.

So what AVX-512 machines generate is executed wherever the tests run: every index, mask, tail and tile of it, though not the
instructions that it becomes there. Each width has a process of its own, as the width of vectors is the process's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import graphmill as gm
import pytest
from graphmill.kernels.cpu.tiling import architecture

ROOT = Path(gm.__file__).parent
FAMILIES = ["gemm.py::test_every_row_count_and_width", "gemm.py::test_fused_matmul", "conv.py::test_conv", "conv.py::test_few_channels",
            "winograd.py::test_winograd", "winograd.py::test_epilogues", "depthwise.py::test_depthwise", "attention.py::test_sizes", "rows.py",
            "reduce.py::test_every_set_of_axes", "reduce.py::test_places_of_extremes", "rnn.py::test_sizes",
            "quantized_lstm.py::test_sizes", "pool.py", "vector.py"]  # fmt: skip
OLD_X86 = {"GRAPHMILL_CPU": "x86-64-v2", "GRAPHMILL_CPU_FEATURES": "+sse4.2,+sse4.1,+ssse3,+sse3,+sse2,+popcnt,+cx16"}


def python(*args: str, **env: str) -> str:
    path = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, *args]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path} | env, cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_families(**env: str) -> None:
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/kernels/cpu/test_{f}" for f in FAMILIES), **env)


@pytest.mark.slow
def test_512_bits() -> None:
    check_families(GRAPHMILL_VECTOR_BITS="512")


@pytest.mark.slow
@pytest.mark.skipif(architecture() != "x86_64", reason="the instructions are those of x86-64-v2, which this machine has not")
def test_an_x86_without_avx() -> None:
    """Two-operand instructions of 128 bits, products and sums that round apart, f16 by integers: nothing here is split."""
    check_families(**OLD_X86)


def test_the_environment_sets_the_width() -> None:
    show = ("-c", "from graphmill.kernels.cpu.vector import LANES; print(LANES)")
    assert [python(*show, GRAPHMILL_VECTOR_BITS=bits).strip() for bits in ("128", "256", "512")] == ["4", "8", "16"]
    with pytest.raises(AssertionError, match="GRAPHMILL_VECTOR_BITS is '64'; expected 128, 256 or 512"):
        python(*show, GRAPHMILL_VECTOR_BITS="64")
