"""What an artifact has for this kind of machine alone: packed constants and objects, and when they may be used.

Packed constants hang on the graph, the kernels' code and the CPU. Kernels rely on their sizes, so a file that is not trusted must
have them of the types that this machine got when it packed the same graph: a receipt in the cache keeps these.

Of a model for CUDA the objects are cubins, for one architecture of GPUs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.core import Node
from ..ir.types import dtype_of
from ..kernels.spec import KernelSource, Refusal
from .archive import canonical_json, sha256_of

if TYPE_CHECKING:
    from .artifact import Loader
    from .executor import Executable
    from .plan import Selector
    from .tuning import Tuning


def packed_of(exe: Executable) -> Iterator[tuple[int, int, np.ndarray]]:
    for k, step in enumerate(exe.plan.kernels()):
        for i, a in sorted(step.packed.items()):
            yield k, i, a


def packing_environment() -> str:
    """What the packed form of a constant depends on beside the graph: the kernels' own code and the CPU."""
    from ..kernels.cpu import objects

    here = objects.environment()
    return sha256_of([canonical_json([_kernels_code(), here["cpu"], here["features"], here["platform"], here["vector_bits"]])])


@functools.cache
def _kernels_code() -> str:
    folder = Path(__file__).parents[1] / "kernels"
    return sha256_of([p.read_bytes() for p in sorted([*folder.glob("*.py"), *folder.glob("cpu/*.py")])])


def _receipt_key(text: str, kernels: Sequence[str]) -> str:
    return sha256_of([canonical_json([text, list(kernels), packing_environment()])])


def _types(packed: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [[k, i, str(dtype), list(shape)] for k, i, dtype, shape in packed]


def keep_receipt(exe: Executable, text: str) -> None:
    """Remembers the types of what this machine has packed for this graph."""
    from ..kernels.cpu import cache

    key = _receipt_key(text, [step.source.text for step in exe.plan.kernels()])
    cache.write_receipt(key, _types([(k, i, dtype_of(a), a.shape) for k, i, a in packed_of(exe)]))


class Chosen:
    """The CPU target's kernels for a loaded graph, with what the artifact has for them where it may be used."""

    def __init__(self, loader: Loader, text: str, trust: bool, select: Selector):
        self.loader, self.text, self.trust, self._select = loader, text, trust, select
        self.unknown = False  # this machine packs what it has not packed before
        self._usable = False
        self._count = 0
        self._rows: list[list[Any]] = []
        self._packed: dict[tuple[int, int], np.ndarray] = {}
        if loader.field("packing", str) == packing_environment():
            self._rows, self._packed = loader.packed()

    def select(self, node: Node) -> KernelSource | Refusal:
        """The target's answer; its constants come packed from the file, if `prepare` found that they may."""
        source = self._select(node)
        if not isinstance(source, KernelSource):
            return source
        self._count, k = self._count + 1, self._count
        return dataclasses.replace(source, pack={i: self._take(k, i, pack) for i, pack in source.pack.items()})

    def _take(self, kernel: int, operand: int, pack: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        def take(a: np.ndarray) -> np.ndarray:
            found = self._packed.get((kernel, operand)) if self._usable else None
            return pack(a) if found is None else found

        return take

    def prepare(self, texts: list[str]) -> None:
        """Given the texts of all kernels: decides what may be used, and takes objects from a trusted file that the cache lacks."""
        from ..kernels.cpu import cache

        if self.trust:
            self._adopt(texts)
        elif self._rows:
            receipt = cache.read_receipt(_receipt_key(self.text, texts))
            self._usable, self.unknown = receipt == self._rows, receipt is None
        self._usable = self._usable or self.trust

    def _adopt(self, texts: list[str]) -> None:
        from ..kernels.cpu import launch, objects

        there, here = self.loader.field("environment", dict), objects.environment()
        same = all(there.get(k) == here[k] for k in ("code", "platform", "vector_bits"))
        if not same or not runs_on(there.get("features"), here["features"]):
            return
        stored = self.loader.objects()
        for text in dict.fromkeys([*texts, *launch.own_texts()]):
            found = stored.get(objects.text_hash(text))
            if found is not None and not objects.is_loaded(text) and objects.read_cached(objects.object_key(text)) is None:
                objects.adopt(text, found[1], found[0])


def runs_on(wanted: Any, here: str) -> bool:
    """Whether a CPU with the features `here` has all that code for `wanted` uses (LLVM's lists: `+avx2,-sse4a`)."""
    if not isinstance(wanted, str):
        return False
    return {f for f in wanted.split(",") if f.startswith("+")} <= set(here.split(","))


# ---- CUDA -------------------------------------------------------------------------------------------------------


def cubins_of(exe: Executable) -> tuple[list[tuple[str, str, bytes]], dict[str, str]]:
    """The hash of the program, the entry and the cubin of every kernel, and what they were compiled for and by."""
    from ..kernels.cuda import cubins, source
    from .cuda import Cuda

    assert isinstance(exe.device, Cuda)
    known = exe.device.driver.cubins
    found = {t: known[t] for t in dict.fromkeys(step.source.text for step in exe.plan.kernels()) if t in known}
    about = {name: ", ".join(sorted({getattr(c, name) for c in found.values()})) for name in ("arch", "options", "nvrtc")}
    return [(cubins.key_of(t), source.entry(t), c.data) for t, c in found.items()], about if found else {}


def adopt_cubins(loader: Loader, texts: Sequence[str]) -> None:
    """Takes the cubins of these kernels from a trusted file: they serve GPUs of their architecture, if nvrtc's options are ours."""
    from ..kernels.cuda import cubins, library, source

    there = loader.field("environment", dict)
    about = [there.get(name) for name in ("arch", "options", "nvrtc")]
    if not all(isinstance(x, str) for x in about):
        return
    stored = loader.objects()
    for text in dict.fromkeys(t for t in texts if not library.is_library(t)):
        found = stored.get(cubins.key_of(text))
        if found is not None and found[0] == source.entry(text):
            cubins.adopt(text, cubins.Cubin(found[1], *about))


def tuning_out(tuning: Tuning) -> dict[str, Any]:
    """What a program was tuned to, for an artifact's manifest: the device and its versions, and the ways by their problems."""
    ways = {key: str(way) for key, way in tuning.ways(tuning.about).items()}
    return {"about": list(tuning.about), "ways": ways}


def tuning_in(loader: Loader) -> Tuning | None:
    """The same from a manifest. A way is one of the kernels that we write ourselves, or none."""
    from .measuring import Measured
    from .tuning import Tuning

    if "tuned" not in loader.manifest:
        return None
    there = loader.field("tuned", dict)
    about, ways = loader.field("about", list, there), loader.field("ways", dict, there)
    if len(about) != 2 or not all(isinstance(x, str) for x in (*about, *ways.values())):
        raise loader.wrong("manifest.json", "tuned: expected a device, its versions, and ways by name")
    return Tuning((about[0], about[1]), {key: Measured(way, {}, {}) for key, way in ways.items()})
