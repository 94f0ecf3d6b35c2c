"""How fast engines run a model: all of them in one process, taking turns, on the same inputs and as many threads each.

A turn is 50 ms of runs, or one run that is longer; rounds of turns go on until every engine had its seconds, so that a change of
the machine's speed meets all alike. A ratio is the median, over the rounds, of peer's median time / graphmill's median time within
the round: above 1 graphmill is faster. CPU time is that of the process: with one thread it is what a run would take on an idle
core, even where other processes want the same core; with more it counts the threads that wait. The load is the average
of the machine in a minute, before or after, whichever is larger.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import realset
from graphmill.engine.bench import Turn, take_turns

Run = Callable[[], list[np.ndarray]]


# ---- engines ----------------------------------------------------------------------------------------------------


def graphmill(path: Path, feeds: realset.Feeds, threads: int) -> Run:
    import graphmill as gm

    exe = gm.compile(path, threads=threads)
    return lambda: list(exe.run(feeds).values())


def onnxruntime(path: Path, feeds: realset.Feeds, threads: int) -> Run:
    """All graph optimisations, arenas and spinning threads, as its defaults are."""
    import onnxruntime as ort

    o = ort.SessionOptions()
    o.intra_op_num_threads, o.inter_op_num_threads, o.log_severity_level = threads, 1, 4
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(path), o, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def openvino(path: Path, feeds: realset.Feeds, threads: int) -> Run:
    """For latency, in float32 where it would choose bfloat16 by itself, without copies of inputs and outputs."""
    import openvino as ov

    core = ov.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    return lambda: list(request.infer(feeds, share_inputs=True, share_outputs=True).values())


ENGINES = {f.__name__: f for f in (graphmill, onnxruntime, openvino)}


def missing(engines: Iterable[str]) -> list[str]:
    """The engines that are not installed."""
    found = {d.name.lower() for d in importlib.metadata.distributions() if d.name}
    return [e for e in engines if e not in found]


# ---- timing -----------------------------------------------------------------------------------------------------


def quartiles(x: Iterable[float]) -> list[float]:
    """The lower quartile, the median and the upper quartile, to five digits."""
    return [float(f"{q:.5g}") for q in np.quantile(list(x), (0.25, 0.5, 0.75))]


def ratios(peer: list[Turn], ours: list[Turn], clock: str) -> list[float]:
    """Quartiles, over the rounds, of how many times as long as graphmill the peer took."""
    return quartiles(np.median(getattr(p, clock)) / np.median(getattr(o, clock)) for p, o in zip(peer, ours))


def measure(entry: dict[str, Any], folder: Path, engines: list[str], threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """What one model takes on each engine; by how much graphmill's outputs differ from each peer's, as a share of the tolerance."""
    feeds, load = realset.feeds(entry), os.getloadavg()[0]
    path = realset.fetch(entry, folder)  # which exports are there
    out: dict[str, Any] = {"model": entry["file"][:-5], "threads": threads, "engines": {}, "ratios": {}}
    runs, answers = {}, {}
    for name in engines:
        started = time.perf_counter()
        try:
            run = ENGINES[name](path, feeds, threads)
            answers[name] = [np.array(realset.as_array(x)) for x in run()]
        except Exception as e:  # engines raise what they like; the others still run
            out["engines"][name] = {"error": f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"}
            continue
        runs[name] = run
        out["engines"][name] = {"setup_s": round(time.perf_counter() - started, 2)}
    turns = take_turns(runs, seconds, threads, rounds) if runs else {}
    for name, t in turns.items():
        for clock in ("wall", "cpu"):
            out["engines"][name][f"{clock}_ms"] = quartiles(1e3 * s for x in t for s in getattr(x, clock))
        out["engines"][name] |= {"rounds": len(t), "samples": sum(len(x.wall) for x in t)}
    for name in [n for n in runs if n != "graphmill" and "graphmill" in runs]:
        worst = max(realset.difference(a, b)[0] for a, b in zip(answers["graphmill"], answers[name], strict=True))
        out["ratios"][name] = {clock: ratios(turns[name], turns["graphmill"], clock) for clock in ("wall", "cpu")}
        out["ratios"][name]["difference"] = float(f"{worst:.3g}")
    return out | {"load": [load, os.getloadavg()[0]]}


# ---- tables -----------------------------------------------------------------------------------------------------


def plural(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    heads = list(heads)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (heads, ["---"] * len(heads), *rows)) + "\n"


def means(results: list[dict[str, Any]], peer: str, clock: str) -> float:
    """The geometric mean of a peer's median ratios; NaN where there are none."""
    found = [r["ratios"][peer][clock][1] for r in results if peer in r["ratios"]]
    return geometric_mean(found) if found else float("nan")


def table(results: list[dict[str, Any]], engines: list[str]) -> str:
    """A Markdown table for each number of threads: medians, and ratios with their quartiles."""
    parts = []
    peers = [e for e in engines if e != "graphmill"]
    for threads in sorted({r["threads"] for r in results}):
        rows = [r for r in results if r["threads"] == threads]
        columns = [(p, clock) for p in peers for clock in ("wall", "cpu")]
        heads = ["model", *(f"{e}, ms wall / CPU" for e in engines), *(f"{p} / graphmill, {clock}" for p, clock in columns), "load"]
        cells = [
            [r["model"]]
            + [_ms(r["engines"].get(e, {})) for e in engines]
            + [_ratio(r["ratios"].get(p, {}), clock) for p, clock in columns]
            + [f"{max(r['load']):.1f}"]
            for r in rows
        ]
        last = ["geometric mean", *[""] * len(engines), *(f"{means(rows, *c):.2f}" for c in columns), ""]
        parts.append(f"## {plural(threads)}\n\n{markdown_table(heads, [*cells, last])}")
    return "\n".join(parts)


def _ms(engine: dict[str, Any]) -> str:
    if "error" in engine:
        return "fails"
    return f"{engine['wall_ms'][1]:.3g} / {engine['cpu_ms'][1]:.3g}" if engine else ""


def _ratio(r: dict[str, Any], clock: str) -> str:
    if clock not in r:
        return ""
    low, mid, high = r[clock]
    return f"{mid:.2f} ({low:.2f} to {high:.2f})" + " OTHER ANSWERS" * (r["difference"] > 1)
