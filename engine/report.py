"""What compiling did: passes, decisions, and how every node is served."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..ir.passes.manager import PassRecord
from ..ir.rewrite import Decision
from .steps import Served

if TYPE_CHECKING:
    from .buckets import Buckets
    from .tuning import Tuning


@dataclass
class CompileReport:
    """Kept with an Executable; `summary()` is what `run --verbose` prints."""

    passes: list[PassRecord] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    kernels: int = 0  # distinct kernels
    compiled: int = 0  # of these, compiled now and not found in the cache
    misses: dict[str, int] = field(default_factory=dict)  # why kernels were not in the cache, and how many for each reason
    seconds: float = 0.0
    tuning: Tuning | None = None  # what was measured, here or where an artifact was saved
    buckets: Buckets | None = None  # what runs are padded to

    def counts(self) -> dict[str, int]:
        """How many nodes run natively, on the host (control flow, lists) and by reference; in how many regions one must fail."""
        return dict(Counter(s.how for s in self.served))

    @property
    def fully_native(self) -> bool:
        """Whether no node runs by its reference or on host lists; control flow counts by its bodies."""
        return all(s.how in ("native", "fails") or s.op in ("if", "loop", "scan") for s in self.served)

    def not_native(self) -> list[Served]:
        return [s for s in self.served if s.how == "reference"]

    def summary(self) -> str:
        c = self.counts()
        lines = [f"{len(self.served)} nodes: " + ", ".join(f"{n} {how}" for how, n in sorted(c.items())),
                 f"{self.kernels} kernels, {self.compiled} compiled now, {self.seconds:.2f} s"]  # fmt: skip
        lines += [f"  {n} not in the cache, {why}" for why, n in self.misses.items()]
        lines += [] if self.tuning is None else self.tuning.summary()
        lines += [] if self.buckets is None else self.buckets.lines()
        lines += [f"  by {s.how}: %{s.node} ({s.op}): {s.reason}" for s in self.not_native()]
        lines += [f"  must fail wherever it is run: {s.reason}" for s in self.served if s.how == "fails"]
        return "\n".join(lines)
