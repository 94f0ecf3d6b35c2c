"""Checks and times the exports of `export.py`.

usage: python benchmarks/bench_models.py check [--cold] [--markdown docs/benchmark_models.md] [--json OUT] [NAME ...]
       python benchmarks/bench_models.py speed [--threads 1,2] [--engines graphmill,onnxruntime,openvino] [--seconds 4] [--quick]
                                               [--markdown OUT.md] [--plot OUT.svg] [--json OUT] [NAME ...]
       python benchmarks/bench_models.py plot JSON OUT.svg
       python benchmarks/bench_models.py rebind [--markdown OUT.md] [--json OUT] [NAME ...]

`check` holds graphmill's outputs against ONNX Runtime's, unoptimised, with each symbolic dim at two sizes, as `real_models.py`
does. `speed` times engines against each other, as `speed.py` tells; a peer that is not installed is left out, and named. `rebind`
times the binding of new shapes, for the exports with a symbolic dim, as `rebind.py` tells. Each model has a process of its own.
`--folder` says where the exports lie. `plot` draws the ratios of a JSON that `speed` wrote.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import export
import machine
import real_models
import realset
import rebind
import speed
import svg


def selected(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    """The exports with these names (all, if none is given). Raises SystemExit where one is not there."""
    entries = {e["name"]: e for e in export.manifest(folder)}
    absent = [n for n in names or entries or export.DEFAULT if n not in entries]
    if absent:
        raise SystemExit(f"{folder} has no {', '.join(absent)}: make them with python benchmarks/export.py")
    return [e for n, e in entries.items() if not names or n in names]


def apart(f: Callable[..., Any], *args: Any) -> Any:
    """f(*args) in a fresh process. Raises what it raises, BrokenProcessPool where the process died."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(f, *args).result()


# ---- check ------------------------------------------------------------------------------------------------------


def check_one(entry: dict[str, Any], folder: Path, cold: bool) -> real_models.Result:
    with tempfile.TemporaryDirectory() as empty:
        if cold:
            os.environ["GRAPHMILL_CACHE"] = empty
        return real_models.check(entry, folder, "cpu")


def check(a: argparse.Namespace) -> int:
    results = []
    for entry in selected(a.folder, a.names):
        try:
            r = apart(check_one, entry, a.folder, a.cold)
        except Exception as e:
            r = real_models.Result(entry["name"], entry["mb"], False, float("inf"), problems=[f"{type(e).__name__}: {e}"])
        results.append(r)
        print(f"{'ok   ' if r.ok else 'WRONG'} {r.model:24} worst {r.worst:.2g}  native {share(r)} {r.by_reference or ''}  "
              f"compile {r.compile_s:.1f} s, {r.compiled} of {r.kernels} kernels compiled", flush=True)  # fmt: skip
        for p in r.problems:
            print("     ", p[:600], flush=True)
        if a.json:
            Path(a.json).write_text(json.dumps([asdict(r) for r in results], indent=1))
    good = sum(r.ok for r in results)
    print(f"{good} of {len(results)} exports give ONNX Runtime's answers.")
    if a.markdown:
        Path(a.markdown).write_text(check_page(results, f"check{' --cold' * a.cold} --markdown {a.markdown}"))
    return len(results) - good


def share(r: real_models.Result) -> str:
    """How much of the nodes of the compiled model run natively."""
    return f"{r.native / max(1, r.native + r.reference):.0%} of {r.native + r.reference}"


def check_page(results: list[real_models.Result], command: str) -> str:
    columns = ("model", "MB", "answers", "worst share of the tolerance", "variants", "native nodes", "by reference", "kernels")
    rows = [(r.model, r.mb, "right" if r.ok else "WRONG", f"{r.worst:.2g}", ", ".join(r.variants), share(r),
             ", ".join(r.by_reference), r.kernels, r.compiled, f"{r.compile_s:.1f}") for r in results]  # fmt: skip
    made = machine.made_by(f"python benchmarks/bench_models.py {command}")
    good = sum(r.ok for r in results)
    return (f"# Benchmark models\n\n{made}\nExports of `python benchmarks/export.py`: seeded random weights.\n\n"
            f"{good} of {len(results)} exports give ONNX Runtime's answers.\n\n"
            + speed.markdown_table((*columns, "compiled now", "compile, s"), rows))  # fmt: skip


# ---- speed ------------------------------------------------------------------------------------------------------

REAL = """# Speed of real models

The models of [models.md](models.md), with their usual inputs. Where it says OTHER ANSWERS the model computes on bytes: ONNX
Runtime's sums of them saturate on machines without VNNI, graphmill's are exact; models.md tells how their answers are compared.
"""


def time_all(a: argparse.Namespace) -> int:
    absent = speed.missing(a.engines)
    if absent:
        print(f"left out, because not installed: {', '.join(absent)}", flush=True)
    engines = [e for e in a.engines if e not in absent]
    seconds, rounds = (0.3, 3) if a.quick else (a.seconds, 7)
    results, failed = [], 0
    for entry in realset.entries(tuple(a.names)) if a.real else selected(a.folder, a.names):
        for threads in a.threads:
            try:
                r = apart(speed.measure, entry, a.folder, engines, threads, seconds, rounds)
            except Exception as e:
                print(f"{entry['file'][:-5]:24} {speed.plural(threads)}: {type(e).__name__}: {e}", flush=True)
                failed += 1
                continue
            results.append(r)
            failed += any("error" in x for x in r["engines"].values())
            print(line(r), flush=True)
            if a.json:
                write_json(Path(a.json), results, engines, seconds)
    print("\n" + speed.table(results, engines))
    if a.markdown:
        options = f"--threads {','.join(map(str, a.threads))} {'--quick' if a.quick else f'--seconds {a.seconds:g}'}"
        options += (" --real" if a.real else "") + (f" --plot {a.plot}" if a.plot else "")
        picture = Path(a.plot).name if a.plot else ""
        text = speed_page(results, engines, f"speed {options} --markdown {a.markdown}", picture)
        Path(a.markdown).write_text(text.replace("# Speed\n", REAL, 1) if a.real else text)
    if a.plot:
        Path(a.plot).write_text(speed_plot(results))
    return failed


def speed_page(results: list[dict[str, Any]], engines: list[str], command: str, picture: str) -> str:
    made = machine.made_by(f"python benchmarks/bench_models.py {command}", *engines)
    paragraphs = [" ".join(p.split()) for p in (speed.__doc__ or "").split("\n\n")]
    shown = [f"![How many times as long as graphmill others take, by model]({picture})"] if picture else []
    return "\n\n".join(["# Speed", made.strip(), *paragraphs, *shown, speed.table(results, engines)])


def speed_plot(results: list[dict[str, Any]]) -> str:
    """Bars of the median ratios by model: CPU time on one thread, wall time on more."""
    series: dict[str, dict[str, float]] = {}
    for r in results:
        for peer, found in r["ratios"].items():
            clock = "cpu" if r["threads"] == 1 else "wall"
            label = f"{peer}, {speed.plural(r['threads'])}"
            series.setdefault(label, {})[r["model"]] = found[clock][1]
    return svg.bars(series, "Time of others / time of graphmill (above 1: graphmill is faster)", "ratio of times")


def draw(a: argparse.Namespace) -> int:
    a.out.write_text(speed_plot(json.loads(a.data.read_text())["results"]))
    return 0


def line(r: dict[str, Any]) -> str:
    times = "  ".join(f"{e} {x['wall_ms'][1]:.4g} ms" if "wall_ms" in x else f"{e} {x['error']}" for e, x in r["engines"].items())
    against = "  ".join(f"{p} / graphmill {x['wall'][1]:.2f}, CPU {x['cpu'][1]:.2f}" for p, x in r["ratios"].items())
    return f"{r['model']:24} {speed.plural(r['threads'])}  {times}  {against}  load {max(r['load']):.1f}"


def write_json(path: Path, results: list[dict[str, Any]], engines: list[str], seconds: float) -> None:
    peers = [e for e in engines if e != "graphmill"]
    mean = {str(t): {p: {c: speed.means([r for r in results if r["threads"] == t], p, c) for c in ("wall", "cpu")} for p in peers}
            for t in sorted({r["threads"] for r in results})}  # fmt: skip
    made = {"machine": machine.machine(*engines), "engines": engines, "seconds": seconds}
    path.write_text(json.dumps({**made, "geometric_mean": mean, "results": results}, indent=1))


# ---- rebind -----------------------------------------------------------------------------------------------------


def rebind_all(a: argparse.Namespace) -> int:
    results, failed = [], 0
    for entry in selected(a.folder, a.names):
        if not realset.symbolic_axes(entry):
            continue
        try:
            results.append(apart(rebind.measure, entry, a.folder))
        except Exception as e:
            print(f"{entry['name']}: {type(e).__name__}: {e}", flush=True)
            failed += 1
    page = speed.markdown_table(rebind.HEADS, map(rebind.row, results))
    print(page)
    if a.json:
        Path(a.json).write_text(json.dumps(results, indent=1))
    if a.markdown:
        made = machine.made_by(f"python benchmarks/bench_models.py rebind --markdown {a.markdown}")
        about = "\n\n".join(" ".join(p.split()) for p in (rebind.__doc__ or "").split("\n\n"))
        Path(a.markdown).write_text(f"# Rebinding\n\n{made}\n{about}\n\n{page}")
    return failed


# ---- the command ------------------------------------------------------------------------------------------------


def engine_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - speed.ENGINES.keys():
        raise argparse.ArgumentTypeError(f"no engine {', '.join(sorted(unknown))}; expected some of {', '.join(speed.ENGINES)}")
    return names


def main(arguments: list[str] | None = None) -> int:
    """The number of exports that are wrong or cannot be timed."""
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = ap.add_subparsers(required=True)
    for verb, f in (("check", check), ("speed", time_all), ("rebind", rebind_all)):
        p = verbs.add_parser(verb)
        p.set_defaults(verb=f)
        p.add_argument("names", nargs="*")
        p.add_argument("--folder", type=Path, default=export.folder())
        p.add_argument("--markdown")
        p.add_argument("--json")
        if f is check:
            p.add_argument("--cold", action="store_true", help="compile every kernel anew, with an empty cache")
        if f is not time_all:
            continue
        p.add_argument("--real", action="store_true", help="the real models of real_models.py in the place of the exports")
        p.add_argument("--plot", help="an SVG of the ratios")
        p.add_argument("--threads", type=lambda s: [int(t) for t in s.split(",")], default=[1, 2])
        p.add_argument("--engines", type=engine_names, default=list(speed.ENGINES))
        p.add_argument("--seconds", type=float, default=4, help="for each engine and model (default 4)")
        p.add_argument("--quick", action="store_true", help="0.3 s and 3 rounds: enough to see that it works")
    p = verbs.add_parser("plot")
    p.set_defaults(verb=draw)
    p.add_argument("data", type=Path)
    p.add_argument("out", type=Path)
    a = ap.parse_args(arguments)
    if getattr(a, "real", False):
        a.folder = realset.folder()
    return a.verb(a)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
