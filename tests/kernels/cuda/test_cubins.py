"""One cubin a text: compiled once, several at once, adopted. A stand-in for nvrtc says when it is asked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from graphmill.kernels.cuda import cubins, nvrtc, source
from graphmill.kernels.cuda.cubins import Cubin

TEXTS = [f"KERNEL(32, 1) {{ ((u32*)p[0])[threadIdx.x] = {i}; }}\n" for i in range(4)]
OPTIONS = ",".join(nvrtc.OPTIONS)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that are compiled, with a cache of their own."""
    programs: list[str] = []

    def compile_(program: str, arch: str) -> tuple[bytes, str]:
        programs.append(program)
        return f"{arch} {len(program)}".encode(), ""

    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path))
    monkeypatch.setattr(nvrtc, "_compile", compile_)
    monkeypatch.setattr(nvrtc, "version", lambda: (13, 0))
    monkeypatch.setattr(cubins, "_adopted", {})
    return programs


def test_a_text_is_compiled_once_whoever_asks_for_it(made: list[str]) -> None:
    first, why = cubins.find(TEXTS[:2], "sm_90")
    assert made == [source.program([t]) for t in TEXTS[:2]] and why == ["text: no kernel of this text was compiled yet"] * 2
    assert first[TEXTS[0]] == Cubin(f"sm_90 {len(made[0])}".encode(), "sm_90", OPTIONS, "13.0")
    second, why = cubins.find([TEXTS[1], TEXTS[2], TEXTS[1]], "sm_90", jobs=8)
    assert made[2:] == [source.program([TEXTS[2]])] and len(why) == 1
    assert list(second) == TEXTS[1:3] and second[TEXTS[1]] == first[TEXTS[1]]
    assert cubins.find([TEXTS[0]], "sm_80")[1] == ["cpu: sm_90, now sm_80"] and len(made) == 4
    assert cubins.find([], "sm_80") == ({}, [])


def test_several_are_compiled_at_once(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=30)  # which one thread alone would not pass
    monkeypatch.setattr(nvrtc, "_compile", lambda program, arch: (bytes([together.wait()]), ""))
    found, _ = cubins.find(TEXTS, "sm_90", jobs=2)
    assert len(found) == 4
    for text, cubin in found.items():
        assert nvrtc.compile_program(source.program([text]), "sm_90").cubin == cubin.data


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_does_not_compile_is_an_error(made: list[str], monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    def compile_(program: str, arch: str) -> tuple[bytes, str]:
        if TEXTS[2] in program:
            raise nvrtc.CudaCompileError("the third")
        return b"", ""

    monkeypatch.setattr(nvrtc, "_compile", compile_)
    with pytest.raises(nvrtc.CudaCompileError, match="the third"):
        cubins.find(TEXTS, "sm_90", jobs)


def test_what_is_adopted_needs_no_nvrtc(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> tuple[int, int]:
        raise nvrtc.CudaUnavailable("nvrtc is not here")

    monkeypatch.setattr(nvrtc, "version", absent)
    cubin = Cubin(b"machine code", "sm_90", OPTIONS, "12.8")
    cubins.adopt(TEXTS[0], cubin)
    cubins.adopt(TEXTS[1], cubin._replace(options="-ftz=true"))
    assert cubins.find([TEXTS[0]], "sm_90") == ({TEXTS[0]: cubin}, [])
    for text, arch in ((TEXTS[0], "sm_80"), (TEXTS[1], "sm_90")):
        with pytest.raises(nvrtc.CudaUnavailable):
            cubins.find([text], arch)
    assert cubins.refuse(TEXTS[0], "sm_90") and not cubins.refuse(TEXTS[0], "sm_90")
    with pytest.raises(nvrtc.CudaUnavailable):
        cubins.find([TEXTS[0]], "sm_90")
