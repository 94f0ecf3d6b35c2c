"""How long it takes to bind the segments of a model for a shape that was not met before.

A model runs with one size of its last symbolic dim after another. At every other size the time is taken of what recipes bind
(`engine/rebind.py`), and of what the run takes outside of its kernels, when the size is new and when it is known. At the others
the same segments are walked as well, which is what binding takes without recipes, and the arenas of both are compared.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import realset

SIZES = range(16, 56)
BATCHES = range(1, 9)


class Watch:
    """Times of one run, in seconds: of recipes that fit, of walks beside them where `walks`, of kernels; and what was bound."""

    def __init__(self, walks: bool = False) -> None:
        self.walks = walks
        self.rebind = self.walk = self.kernels = 0.0
        self.steps = self.recorded = self.arena = self.best_fit = 0


def clocked(f: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    out = f(*args)
    return time.perf_counter() - began, out


@contextmanager
def watched() -> Iterator[list[Watch]]:
    """While it is open, the last of the list sees what runs do."""
    from graphmill.engine import rebind
    from graphmill.engine.binder import Binder
    from graphmill.engine.draft import draft_of
    from graphmill.kernels.cpu.launch import Schedule

    seen, asked = [Watch()], []
    ask, bind, make, run = rebind.Recipes.bind, rebind.Recipe.bind, rebind.Recipe.__init__, Schedule.advance

    def ask_watched(self: Any, frame: Any) -> Any:
        asked[:] = [self]
        return ask(self, frame)

    def bind_watched(self: Any, signature: Any, frame: Any) -> Any:
        seconds, bound = clocked(bind, self, signature, frame)
        w = seen[-1]
        w.rebind += seconds
        w.steps += bound.stop - asked[0]._segment[1] if bound else 0
        if w.walks:
            binder = Binder(*asked[0]._segment, frame, asked[0]._reads, asked[0]._contents)
            walking, _ = clocked(binder.walk)
            finishing, walked = clocked(lambda: draft_of(binder).bound()) if binder.steps else (0.0, None)
            w.walk += walking + finishing
            w.arena += bound.arena if bound else 0
            w.best_fit += walked.arena if walked else 0
        return bound

    def make_watched(self: Any, *args: Any) -> None:
        seen[-1].recorded += 1
        make(self, *args)

    def run_watched(self: Any, *args: Any) -> Any:
        seconds, done = clocked(run, self, *args)
        seen[-1].kernels += seconds
        return done

    rebind.Recipes.bind, rebind.Recipe.bind, rebind.Recipe.__init__, Schedule.advance = (
        ask_watched,
        bind_watched,
        make_watched,
        run_watched,
    )
    try:
        yield seen
    finally:
        rebind.Recipes.bind, rebind.Recipe.bind, rebind.Recipe.__init__, Schedule.advance = ask, bind, make, run


def measure(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the table says of one model. Raises ValueError where it has no symbolic dim."""
    import graphmill as gm

    axes = realset.symbolic_axes(entry)
    if not axes:
        raise ValueError("no symbolic dim")
    symbol = next((s for s in reversed(axes) if "batch" not in s.lower()), next(iter(axes)))
    exe, base = gm.compile(folder / entry["file"], threads=1), realset.feeds(entry)
    new: list[tuple[float, Watch]] = []
    known: list[float] = []
    gc.disable()  # it may come at any time, and the process has more to look at than a user's
    with watched() as seen:
        for k, n in enumerate(BATCHES if "batch" in symbol.lower() else SIZES):
            feeds = realset.grown(base, axes[symbol], n)
            for times in range(3):
                seen.append(Watch(walks=k % 2 == 1))
                seconds, _ = clocked(exe.run, feeds)
                if times == 0:
                    new.append((seconds - seen[-1].kernels, seen[-1]))
                else:
                    known.append(seconds - seen[-1].kernels)
    rebound = [(outside, w) for outside, w in new if w.steps and not w.recorded]
    plain, walked = [x for x in rebound if not x[1].walks], [w for _, w in rebound if w.walks]
    if not plain or not walked:
        raise ValueError(f"no size of {symbol} was bound by what was recorded")
    us = {name: 1e6 * statistics.median(values) for name, values in (
        ("rebind", [w.rebind for _, w in plain]), ("walk", [w.walk for w in walked]), ("new", [outside for outside, _ in plain]),
        ("known", known))}  # fmt: skip
    arena = max((w.arena / w.best_fit for w in walked if w.best_fit), default=1.0)
    return {
        "model": entry["name"], "symbol": symbol, "steps": walked[-1].steps, "us": us, "sizes": len(new),
        "recorded": sum(w.recorded for _, w in new), "arena": arena,
    }  # fmt: skip


HEADS = ("model", "dim", "steps", "rebinding, us", "for 300 steps", "walking, us", "outside of kernels: new shape, us", "known, us",
         "recorded walks", "sizes", "largest arena / best fit")  # fmt: skip


def row(r: dict[str, Any]) -> tuple[str, ...]:
    us = {name: f"{t:.0f}" for name, t in r["us"].items()}
    each = f"{r['us']['rebind'] * 300 / r['steps']:.0f}"
    return (r["model"], r["symbol"], str(r["steps"]), us["rebind"], each, us["walk"], us["new"], us["known"], str(r["recorded"]),
            str(r["sizes"]), f"{r['arena']:.2f}")  # fmt: skip
