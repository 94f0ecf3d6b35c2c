"""graphmill explain: the decisions that were taken, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .common import (
    LONGEST,
    Verb,
    clean,
    json_option,
    model_argument,
    print_json,
    progress,
    tuning_options,
)

if TYPE_CHECKING:
    from ..engine.options import Options
    from ..engine.report import CompileReport


@click.command(cls=Verb)
@model_argument
@click.argument("node", required=False)
@click.option("--refused", is_flag=True, help="Only what was refused.")
@tuning_options
@json_option
def explain(model: str, node: str | None, refused: bool, options: Options, as_json: bool) -> None:
    """Print every decision about MODEL, or those about one NODE (a name of the model's or of the IR's). An artifact (.gmill) tells
    what was decided when it was compiled."""
    report = _report(model, options)
    wanted = (node, node.removeprefix("%")) if node else ()
    found = [d for d in report.decisions
             if (not wanted or d.at in wanted or node in d.nodes) and (not refused or d.outcome == "refused")]  # fmt: skip
    if as_json:
        print_json([asdict(d) for d in found])
        return
    for d in found:
        click.echo(clean(str(d) + (f"  [{', '.join(d.nodes)}]" if d.nodes else ""), LONGEST))
    if not found:
        click.echo(clean("no decision" + (f" about {node}" if node else "")))


def _report(model: str, options: Options) -> CompileReport:
    if model.endswith(".gmill"):
        from ..engine.artifact import read_report

        return read_report(model)
    from ..engine.compiler import load, optimize, tune_module
    from ..engine.report import CompileReport

    report = CompileReport()
    module = load(model, options)
    optimize(module, options, report)
    with progress("compiling") as say:
        tune_module(module, options, report, say)
    return report
