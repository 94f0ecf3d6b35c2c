"""Which share of the machine's peak each kernel of a model reaches.

usage: python benchmarks/roofline.py [--folder DIR] [--markdown docs/roofline.md] [--plot docs/roofline.svg] [--json OUT] [NAME ...]

`peaks.py` measures what one core can do: multiply-adds in registers, bytes read from the second-level cache and from memory, a
triad through memory. `profile_rows.py` times each kernel of a model within its run, on one thread. FLOPs are those of
the operators' definitions, so that Winograd's convolutions, which multiply less, may stand above the peak; bytes are operands and
results, each once, so that kernels whose operands are in a cache may stand above the memory's roof. A kernel that is limited by
neither stands below both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import export
import graphmill as gm
import machine
import peaks
import profile_rows
import realset
import speed
import svg

MODELS = ("resnet50", "mobilenetv2", "convnext_tiny", "bert_base", "gpt2_kv")
MOST_ROWS = 8  # of a model that the page lists one by one
# Kernels by family, in the order of the legend; all others are "other".
FAMILIES = {
    "conv.rows": "convolution", "conv.narrow": "convolution", "conv.winograd": "convolution (Winograd)",
    "conv.direct": "convolution", "depthwise": "depthwise",
    "gemm": "product", "gemm.unpacked": "product", "blocks of queries": "attention", "attention": "attention", "rows": "rows",
    "columns": "rows", "loops": "elementwise", "reduce": "reduction, pool", "lstm": "recurrent", "gru": "recurrent",
}  # fmt: skip


def family(row: profile_rows.RowTime) -> str:
    return "reduction, pool" if row.kernel.startswith("pool") else FAMILIES.get(row.kernel, "other")


def measure(entry: dict[str, Any], folder: Path) -> list[profile_rows.RowTime]:
    """The kernels of an export at its usual sizes."""
    feeds = realset.feeds(entry)
    shapes = {d: n for name, _, dims in entry["inputs"] for d, n in zip(dims, feeds[name].shape) if isinstance(d, str)}
    return profile_rows.profile(gm.compile(folder / entry["file"], threads=1, shapes=shapes), feeds)


def alike(rows: Sequence[profile_rows.RowTime]) -> list[list[profile_rows.RowTime]]:
    """Rows of the same kernel at the same sizes together, those that take longest first."""
    groups: dict[tuple, list[profile_rows.RowTime]] = {}
    for r in rows:
        groups.setdefault((r.kernel, r.what, r.result, r.flops, r.nbytes), []).append(r)
    return sorted(groups.values(), key=lambda g: -sum(r.seconds for r in g))


def points(models: dict[str, list[profile_rows.RowTime]]) -> list[svg.Point]:
    """Kernels that take a thousandth of their model's time and more."""
    out = []
    for name, rows in models.items():
        total = sum(r.seconds for r in rows)
        for group in alike(rows):
            r, share = group[0], sum(r.seconds for r in group) / total
            rate = r.flops * len(group) / (share * total) / 1e9
            if r.flops and r.nbytes and share >= 1e-3:
                tip = f"{name}: {r.what} -> {r.result}, {len(group)} times, {share:.1%} of the time, {rate:.1f} GFLOP/s"
                out.append(svg.Point(r.flops / r.nbytes, rate, family(r), name, share, tip))
    order = list(dict.fromkeys([*FAMILIES.values(), "other"]))
    return sorted(out, key=lambda p: order.index(p.family))


def plot(models: dict[str, list[profile_rows.RowTime]], found: dict[str, float]) -> str:
    slopes = {f"{found['memory']:.0f} GB/s: read from memory": found["memory"],
              f"{found['cache']:.0f} GB/s: from second-level cache": found["cache"]}  # fmt: skip
    return svg.roofline(points(models), found["fma"], slopes, "Kernels under the roofs of one core",
                        "FLOPs of the operators / bytes of operands and results", "GFLOP/s")  # fmt: skip


# ---- the page ---------------------------------------------------------------------------------------------------

HEADS = ("kernels", "ms", "share of the time", "GFLOP/s", "of the multiply-add peak", "GB/s", "of the memory's bandwidth")


def _figures(rows: Sequence[profile_rows.RowTime], total: float, found: dict[str, float]) -> tuple[str, ...]:
    seconds = sum(r.seconds for r in rows)
    rate, traffic = sum(r.flops for r in rows) / seconds / 1e9, sum(r.nbytes for r in rows) / seconds / 1e9
    return (f"{1e3 * seconds:.3g}", f"{seconds / total:.1%}", f"{rate:.3g}", f"{rate / found['fma']:.0%}", f"{traffic:.3g}",
            f"{traffic / found['memory']:.0%}")  # fmt: skip


def section(name: str, rows: list[profile_rows.RowTime], found: dict[str, float]) -> str:
    """A model: by family, and its slowest kernels one by one (equal ones together)."""
    total = sum(r.seconds for r in rows)
    families = sorted({family(r) for r in rows}, key=lambda f: -sum(r.seconds for r in rows if family(r) == f))
    groups = {f: [r for r in rows if family(r) == f] for f in families}
    table = [(f"{f} ({len(g)})", *_figures(g, total, found)) for f, g in groups.items()]
    table.append((f"all ({len(rows)})", *_figures(rows, total, found)))
    single = [
        (f"{g[0].kernel}: {g[0].what} -> {g[0].result} ({len(g)})", *_figures(g, total, found)) for g in alike(rows)[:MOST_ROWS]
    ]
    return f"## {name}\n\n{speed.markdown_table(HEADS, table)}\n{speed.markdown_table(HEADS, single)}"


def page(models: dict[str, list[profile_rows.RowTime]], found: dict[str, float], command: str, picture: str) -> str:
    paragraphs = [" ".join(p.split()) for p in (__doc__ or "").split("\n\n") if not p.startswith("usage")]
    peaks_of = (f"One core: {found['fma']:.0f} GFLOP/s of multiply-adds in registers; {found['cache']:.0f} GB/s read from "
                f"{peaks.CACHE >> 10} KiB, {found['memory']:.1f} GB/s from {peaks.MEMORY >> 20} MiB; {found['triad']:.1f} GB/s "
                "in a triad.")  # fmt: skip
    shown = [f"![Kernels by FLOPs a byte and GFLOP/s]({picture})"] if picture else []
    parts = [section(name, rows, found) for name, rows in models.items()]
    return "\n\n".join(["# Roofline", machine.made_by(command).strip(), *paragraphs, peaks_of, *shown]) + "\n\n" + "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """The number of models that cannot be measured."""
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("names", nargs="*", help=f"exports (default: {', '.join(MODELS)})")
    ap.add_argument("--folder", type=Path, default=export.folder())
    for option in ("--markdown", "--plot", "--json"):
        ap.add_argument(option, type=Path)
    a = ap.parse_args(arguments)
    entries = {e["name"]: e for e in export.manifest(a.folder)}
    if absent := [n for n in a.names or MODELS if n not in entries]:
        raise SystemExit(f"{a.folder} has no {', '.join(absent)}: make them with python benchmarks/export.py")
    found = peaks.measure()
    print("  ".join(f"{k} {v:.1f}" for k, v in found.items()), flush=True)
    models, failed = {}, 0
    for name in a.names or MODELS:
        try:
            models[name] = rows = measure(entries[name], a.folder)
        except Exception as e:  # the others are measured all the same
            print(f"{name}: {type(e).__name__}: {e}", flush=True)
            failed += 1
            continue
        total = sum(r.seconds for r in rows)
        rate = sum(r.flops for r in rows) / total / 1e9
        print(f"{name:20} {1e3 * total:.3g} ms  {rate:.1f} GFLOP/s, {rate / found['fma']:.0%} of the peak", flush=True)
    if a.json:
        rows = {n: [asdict(r) for r in rs] for n, rs in models.items()}
        a.json.write_text(json.dumps({"machine": machine.machine(), "peaks": found, "models": rows}, indent=1))
    if a.plot and models:
        a.plot.write_text(plot(models, found))
    if a.markdown:
        options = f"{f'--plot {a.plot} ' if a.plot else ''}--markdown {a.markdown}"
        a.markdown.write_text(page(models, found, f"python benchmarks/roofline.py {' '.join(a.names)} {options}".replace("  ", " "),
                                   a.plot.name if a.plot else ""))  # fmt: skip
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
