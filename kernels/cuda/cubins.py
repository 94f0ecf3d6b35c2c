"""A cubin for each kernel text: of a file that is trusted, from the cache, or compiled now, several at once.

Each text is a program of its own (source.program), so that models share cubins, and what is compiled anew is only what is new.
nvrtc compiles one program in each thread that asks for it; reading what stands before the text costs it little beside the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ..cpu.cache import explain_misses, read_cached
from . import nvrtc, source


class Cubin(NamedTuple):
    """A kernel's machine code, the architecture that it is for, and the options and the nvrtc that made it."""

    data: bytes
    arch: str
    options: str
    nvrtc: str


_adopted: dict[tuple[str, str], Cubin] = {}  # by program and architecture


def key_of(text: str) -> str:
    """What tells a text's program from others': its hash, with all that stands before the text."""
    return hashlib.sha256(source.program([text]).encode()).hexdigest()


def adopt(text: str, cubin: Cubin) -> None:
    """Takes a cubin that the caller trusts as that of a kernel text, for architectures and options equal to its own."""
    if cubin.options == ",".join(nvrtc.OPTIONS):
        _adopted[key_of(text), cubin.arch] = cubin


def refuse(text: str, arch: str) -> bool:
    """Forgets what was adopted for a text; whether there was anything."""
    return _adopted.pop((key_of(text), arch), None) is not None


def find(texts: Sequence[str], arch: str, jobs: int = 1) -> tuple[dict[str, Cubin], list[str]]:
    """The cubin of every text, compiling what is missing in up to `jobs` threads; why each of these was missing. nvrtc is needed
    for what was not adopted. Raises CudaCompileError, CudaUnavailable, KernelTextError."""
    out = {t: _adopted.get((key_of(t), arch)) for t in dict.fromkeys(texts)}
    programs = {t: source.program([t]) for t, found in out.items() if found is None}
    abouts = [nvrtc.about(p, arch) for p in programs.values()]
    missing = [(key, a) for key, a in ((nvrtc.key_of(a), a) for a in abouts) if read_cached(key) is None]
    reasons = explain_misses(missing) if missing else []
    made = dict(zip(programs, _compile(list(programs.values()), arch, jobs if missing else 1), strict=True))
    return {t: made[t] if found is None else found for t, found in out.items()}, reasons


def _compile(programs: Sequence[str], arch: str, jobs: int) -> list[Cubin]:
    def one(program: str) -> Cubin:
        cubin = nvrtc.compile_program(program, arch).cubin
        return Cubin(cubin, arch, ",".join(nvrtc.OPTIONS), "{}.{}".format(*nvrtc.version()))

    if jobs == 1 or len(programs) < 2:
        return [one(p) for p in programs]
    with ThreadPoolExecutor(min(jobs, len(programs)), "graphmill nvrtc") as pool:
        try:
            return list(pool.map(one, programs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
