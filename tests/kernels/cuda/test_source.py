"""CUDA texts become one program: entries, shapes, the words of fast divisions."""

from __future__ import annotations

import pytest
from graphmill.kernels.cuda.source import KernelTextError, Shape, entry, fast_div, program, shape_of
from hypothesis import given
from hypothesis import strategies as st

TEXT = "KERNEL(256, 3) { ((f32*)p[0])[threadIdx.x] = p[1]; }"


def test_the_shape_is_what_the_text_says() -> None:
    assert shape_of(TEXT) == Shape(256, 3, 0)
    assert shape_of("DEVICE f32 f() { return 1; }\n  KERNEL( 32 , 1, 4096 ) {}") == Shape(32, 1, 4096)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "KERNEL(N, 1) {}",
        "// KERNEL(32, 1) {}",
        "KERNEL(32, 1) {}\nKERNEL(32, 1) {}",
        "KERNEL(0, 1) {}",
        "KERNEL(1025, 1) {}",
        "KERNEL(32, 0) {}",
        "KERNEL(32, 513) {}",
    ],
)
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(KernelTextError, match="expected"):
        shape_of(text)
    with pytest.raises(KernelTextError, match="expected"):
        program([text])


def test_a_program_has_each_text_once() -> None:
    other = TEXT.replace("p[1]", "p[2]")
    made = program([TEXT, other, TEXT])
    assert made.count(TEXT) == 1 and made.count(other) == 1
    assert made.count(f"#define NAME {entry(TEXT)}\n") == 1
    assert entry(TEXT) != entry(other)
    assert "#include" not in made


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_a_fast_division_divides(d: int, n: int) -> None:
    word = fast_div(d)
    assert -(2**63) <= word < 2**63
    low, magic = word & 0xFFFFFFFF, word >> 32 & 0xFFFFFFFF
    assert low == d
    shift = 31 + (d - 1).bit_length()
    for m in {n, n // d * d, max(n // d * d - 1, 0), 2**31 - 1}:
        assert m * magic >> shift == m // d


def test_sizes_that_no_index_reaches_are_refused() -> None:
    assert fast_div(0) == fast_div(1)
    for size in (-1, 2**31):
        with pytest.raises(ValueError, match="expected 0 to"):
            fast_div(size)
