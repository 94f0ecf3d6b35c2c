"""graphmill ops: the operators there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .common import Verb, json_option, print_json

if TYPE_CHECKING:
    from ..ir.op import OpDef


@click.command(cls=Verb)
@click.argument("name", required=False)
@json_option
def ops(name: str | None, as_json: bool) -> None:
    """List the operators of the IR with how ONNX spells them, or show one."""
    from ..ir import ops as _  # noqa: F401
    from ..ir.op import OPS

    rows = [_row(OPS[n]) for n in ([name] if name else OPS)]
    if as_json:
        print_json(rows)
        return
    for r in rows:
        click.echo(f"{r['name']}({', '.join(r['operands'])})  {' '.join(r['onnx'])}  [{r['family']}]")
        if name:
            click.echo("\n".join([*(f"  {k} = {v}" for k, v in r["attrs"].items()), r["doc"]]))


def _row(d: OpDef) -> dict[str, Any]:
    operands = [("*" if o.variadic else "") + o.name + ("?" if o.optional else "") for o in d.operands]
    return {"name": d.name, "family": d.family, "operands": operands, "attrs": {k: repr(a.default) for k, a in d.attrs.items()},
            "onnx": [f"{f.domain}::{f.op_type}" if f.domain else f.op_type for f in d.onnx], "traits": sorted(d.traits),
            "doc": d.doc}  # fmt: skip
