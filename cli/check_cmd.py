"""graphmill check: what of a model is served, and how, before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from .common import json_option, model_argument, parse_sizes, print_json, set_option

ORDER = ("unsupported", "reference", "host", "native")


@click.command()
@model_argument
@click.option("--target", type=click.Choice(["cpu", "reference"]), default="cpu", show_default=True)
@set_option
@json_option
def check(model: str, target: str, sizes: tuple[str, ...], as_json: bool) -> None:
    """Print how every operator of MODEL is served: native (a generated kernel, a view, sizes), host (control flow and lists),
    by its numpy reference, or not at all. The exit status is 0 where all are served, 1 where some are not or the model is wrong."""
    answer = coverage(model, target, parse_sizes(sizes))
    if as_json:
        print_json(answer)
    else:
        _print(answer)
    sys.exit(0 if answer["ok"] else 1)


def coverage(model: str, target: str = "cpu", sizes: dict[str, int] | None = None) -> dict[str, Any]:
    """What `check --json` prints: problems, and rows of operators with their state, reason, count and first nodes."""
    from ..engine.compiler import load, optimize
    from ..engine.options import Options
    from ..engine.plan import how_served
    from ..engine.report import CompileReport
    from ..frontends.onnx.coverage import check as read_check
    from ..ir.errors import GraphmillError, InferenceError, UnsupportedError

    try:
        report = read_check(model)
    except GraphmillError as e:
        return _answer(model, {}, [], [{"node": "", "op": "", "message": str(e)}])
    if not report.ok:
        return report.as_dict()
    options = Options(target, shapes=sizes or {})
    try:
        module = load(model, options)
        optimize(module, options, CompileReport())
        served = how_served(module.main, _select(target))
    except (InferenceError, UnsupportedError) as e:
        return _answer(model, report.opsets, [], [{"node": "", "op": "", "message": str(e)}])
    return _answer(model, report.opsets, served, [])


def _select(target: str) -> Any:
    if target == "reference":
        return None
    from ..kernels.cpu.target import select

    return select


def _answer(model: str, opsets: dict[str, int], served: Iterable[Any], problems: list[dict]) -> dict[str, Any]:
    rows: dict[tuple, dict[str, Any]] = {}
    for s in served:
        row = rows.setdefault((s.op, s.how, s.reason), {"op": s.op, "state": s.how, "reason": s.reason, "count": 0, "nodes": []})
        row["count"] += 1
        if len(row["nodes"]) < 5:
            row["nodes"].append(s.locs[0] if s.locs else f"%{s.node}")
    ordered = sorted(rows.values(), key=lambda r: (ORDER.index(r["state"]), r["op"], r["reason"]))
    counts = {state: sum(r["count"] for r in ordered if r["state"] == state) for state in ORDER}
    return {"source": model, "ok": not problems, "opsets": opsets, "counts": counts, "ops": ordered, "problems": problems}


def _print(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for p in answer["problems"]:
        where = f"node {p['node']} ({p['op']}): " if p.get("node") else ""
        console.print(f"  {where}{p['message']}{'; ' + p['hint'] if p.get('hint') else ''}", markup=False, soft_wrap=True)
    table = Table("state", "op", "nodes", "why", "first")
    for r in answer["ops"]:
        table.add_row(r["state"], r["op"], str(r["count"]), r["reason"], r["nodes"][0] if r["nodes"] else "")
    if answer["ops"]:
        console.print(table)
    console.print(", ".join(f"{n} {state}" for state, n in answer["counts"].items() if n) or "nothing is served", markup=False)
