"""graphmill dump: the IR of a model as text, JSON or dot, after any pass."""

from __future__ import annotations

from typing import Any

import click

from .common import model_argument, parse_sizes, print_json, set_option


@click.command()
@model_argument
@click.option("--after", metavar="PASS", help="Stop after this pass of the pipeline ('import' shows the model as read).")
@click.option("--passes", metavar="TEXT", help="The pipeline, e.g. 'infer,fold,dce'.")
@click.option("--print-ir-after-all", "every", is_flag=True, help="Print the IR after every pass.")
@click.option("--print-ir-after-change", "changes", is_flag=True, help="Print the IR after every pass that changed it.")
@click.option("--format", "form", type=click.Choice(["text", "json", "dot"]), default="text", show_default=True)
@click.option("--target", type=click.Choice(["cpu", "reference"]), default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--output", "-o", type=click.Path(), help="Write the text there, and large constants to OUTPUT.npz beside it.")
@set_option
def dump(model: str, after: str | None, passes: str | None, every: bool, changes: bool, form: str, target: str, as_json: bool,
         sizes: tuple[str, ...], output: str | None) -> None:  # fmt: skip
    """Print the IR of MODEL, optimized or after a pass."""
    from ..engine.compiler import load, optimize, pipeline_text
    from ..engine.options import Options
    from ..engine.report import CompileReport
    from ..ir.errors import IRError
    from ..ir.passes.manager import parse_pipeline, print_pass, print_pipeline
    from ..ir.printer import print_module

    options = Options(target, passes=passes, shapes=parse_sizes(sizes))
    module = load(model, options)
    from ..ir import passes as _  # noqa: F401

    chosen = [] if after == "import" else parse_pipeline(pipeline_text(options))
    if after not in (None, "import"):
        names = [p.name for p in chosen]
        if after not in names:
            raise IRError(f"the pipeline has no pass {after!r}; it is {print_pipeline(chosen)}")
        chosen = chosen[: len(names) - names[::-1].index(after)]
    last = [print_module(module)]

    def observe(p: Any, m: Any) -> None:
        text = print_module(m)
        if every or (changes and text != last[0]):
            click.echo(f"// after {print_pass(p)}\n{text}")
        last[0] = text

    if chosen:
        optimize(module, Options(target, passes=print_pipeline(chosen)), CompileReport(), observe)
    if every or changes:
        return
    if output:
        from ..frontends.text import write_text

        write_text(module, output)
    elif as_json or form == "json":
        print_json(module_as_dict(module))
    elif form == "dot":
        click.echo(module_as_dot(module))
    else:
        click.echo(last[0])


def module_as_dict(module: Any) -> dict[str, Any]:
    """The program as plain data: names, types, attributes, regions."""

    def graph(g: Any) -> dict[str, Any]:
        nodes = [
            {"op": n.op.name, "operands": [v.name if v is not None else None for v in n.operands],
             "results": [{"name": r.name, "type": str(r.type)} for r in n.results], "attrs": {k: str(v) for k, v in n.attrs.items()},
             "loc": list(n.locs), "regions": [graph(r) for r in n.regions]}
            for n in g
        ]  # fmt: skip
        return {"name": g.name, "inputs": [{"name": v.name, "type": str(v.type)} for v in g.inputs], "nodes": nodes,
                "outputs": [v.name for v in g.outputs]}  # fmt: skip

    return {"name": module.name, "opsets": module.opsets, "constants": {n: str(v.type) for n, v in module.consts.items()},
            "symbols": {s.name: [s.lo, s.hi] for s in module.symbols.values()}, "graph": graph(module.main)}  # fmt: skip


def module_as_dot(module: Any) -> str:
    """The main graph in Graphviz's language."""
    from ..ir.symbols import quote

    lines = ["digraph graphmill {", "  node [shape=box, fontname=monospace];"]
    for v in module.main.inputs:
        lines.append(f"  {quote('%' + v.name)} [shape=ellipse, label={quote(f'{v.name}: {v.type}')}];")
    for n in module.main:
        here = quote(f"#{n.name}")
        inner = [m.op.name for r in n.regions for m in r]
        lines.append(f"  {here} [label={quote(n.op.name + (' = ' + ' + '.join(inner[:8]) if inner else ''))}];")
        for v in n.operands:
            if v is not None and not v.is_const:
                source = quote(f"#{v.node.name}" if v.node is not None else f"%{v.name}")
                lines.append(f"  {source} -> {here} [label={quote(str(v.type))}];")
    return "\n".join([*lines, "}"])
