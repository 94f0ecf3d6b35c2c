"""graphmill passes: the passes there are, and the usual pipelines."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import click

from .common import Verb, json_option, print_json


@click.command(cls=Verb)
@json_option
def passes(as_json: bool) -> None:
    """List the passes, their options and the usual pipelines."""
    from ..engine.compiler import TARGETS, pipeline_text
    from ..engine.options import Options
    from ..ir import passes as _  # noqa: F401
    from ..ir.passes.manager import PASSES

    rows = [_row(name, cls) for name, cls in sorted(PASSES.items())]
    pipelines = {target: pipeline_text(Options(target)) for target in TARGETS}
    if as_json:
        print_json({"passes": rows, "pipelines": pipelines})
        return
    for row in rows:
        options = ",".join(f"{k}={v}" for k, v in row["options"].items())
        click.echo(f"{row['name']}{'{' + options + '}' if options else ''}: {row['doc']}")
    for target, text in pipelines.items():
        click.echo(f"\n{target}: {text}")


def _row(name: str, cls: type) -> dict[str, Any]:
    return {"name": name, "options": {f.name: f.default for f in dataclasses.fields(cls)}, "doc": inspect.getdoc(cls) or ""}
