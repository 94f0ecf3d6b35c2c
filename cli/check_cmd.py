"""graphmill check: what of a model is served, and how, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from .common import (
    LONGEST,
    Verb,
    clean,
    json_option,
    model_argument,
    narrowing_options,
    print_json,
)

if TYPE_CHECKING:
    from ..engine.options import Options
    from ..engine.steps import Served

ORDER = ("unsupported", "reference", "fails", "host", "native")
MOST_NODES = 5  # nodes that a row names


@click.command(cls=Verb)
@model_argument
@narrowing_options
@json_option
@click.pass_context
def check(ctx: click.Context, model: str, options: Options, as_json: bool) -> None:
    """Print how every operator of MODEL is served: native (a generated kernel, a view, sizes), host (control flow and lists),
    by its numpy reference, or not at all. The exit status is 0 where all are served, 1 where some are not or the model is wrong."""
    answer = coverage(model, options)
    if as_json:
        print_json(answer)
    else:
        _print(answer)
    ctx.exit(0 if answer["ok"] else 1)


def coverage(model: str, options: Options | None = None) -> dict[str, Any]:
    """What `check --json` prints: `ok`, the error's type if not, problems, and rows of operators with their state, reason, count
    and first nodes. Nothing is compiled."""
    from ..engine.compiler import import_report, load, optimize, select_for
    from ..engine.options import Options
    from ..engine.plan import how_served
    from ..engine.report import CompileReport
    from ..frontends.onnx.coverage import check as read_check
    from ..ir.errors import GraphmillError, ImportProblem

    options, opsets = options or Options(), {}
    try:
        try:
            module = load(model, options)
        except ImportProblem:  # what could be read is listed all the same
            report = read_check(model)
            return {"error": "ImportProblem", **report.as_dict(), "counts": {s: report.counts().get(s, 0) for s in ORDER}}  # type: ignore[call-overload]
        opsets = module.opsets
        with import_report(model, options):
            optimize(module, options, CompileReport())
        return _answer(model, opsets, how_served(module.main, select_for(options)))
    except GraphmillError as e:
        problems = [p.as_dict() for p in getattr(e, "problems", ())] or [{"message": str(e)}]
        return _answer(model, opsets, []) | {"ok": False, "error": type(e).__name__, "problems": problems}


def _answer(model: str, opsets: Mapping[str, int], served: Iterable[Served]) -> dict[str, Any]:
    rows: dict[tuple, dict[str, Any]] = {}
    for s in served:
        row = rows.setdefault((s.op, s.how, s.reason), {"op": s.op, "state": s.how, "reason": s.reason, "count": 0, "nodes": []})
        row["count"] += 1
        if len(row["nodes"]) < MOST_NODES:
            row["nodes"].append(s.locs[0] if s.locs else f"%{s.node}")
    ordered = sorted(rows.values(), key=lambda r: (ORDER.index(r["state"]), r["op"], r["reason"]))
    counts = {state: sum(r["count"] for r in ordered if r["state"] == state) for state in ORDER}
    return {"error": "", "source": model, "ok": True, "opsets": dict(opsets), "counts": counts, "ops": ordered, "problems": []}


def _print(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(Text(clean(text, LONGEST)), soft_wrap=True)

    if answer["error"]:
        say(f"{answer['error']}: {len(answer['problems'])} problem{'s' if len(answer['problems']) != 1 else ''}")
    for p in answer["problems"]:
        where = f"node {p['node']} ({p['op']}): " if p.get("node") else ""
        say(f"  {where}{p['message']}{'; ' + p['hint'] if p.get('hint') else ''}")
    table = Table("state", "op", "nodes", "why", "first")
    for r in answer["ops"]:
        cells = (r["state"], r["op"], str(r["count"]), r["reason"], r["nodes"][0] if r["nodes"] else "")
        table.add_row(*(Text(clean(c, 200)) for c in cells))
    if answer["ops"]:
        console.print(table)
    say(", ".join(f"{n} {state}" for state, n in answer["counts"].items() if n) or "nothing is served")
