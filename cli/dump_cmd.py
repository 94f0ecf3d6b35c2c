"""graphmill dump: the IR of a model as text, JSON, dot or ONNX, after any pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from .common import Verb, clean, model_argument, print_json, progress, tuning_options

if TYPE_CHECKING:
    from ..engine.options import Options
    from ..ir.core import Graph, Module, Value


@click.command(cls=Verb)
@model_argument
@click.option("--after", metavar="PASS", help="Stop after this pass of the pipeline ('import' shows the model as read).")
@click.option("--passes", metavar="TEXT", help="The pipeline, e.g. 'infer,fold,dce'.")
@click.option("--print-ir-after-all", "every", is_flag=True, help="Print the IR after every pass.")
@click.option("--print-ir-after-change", "changes", is_flag=True, help="Print the IR after every pass that changed it.")
@click.option("--format", "form", type=click.Choice(["text", "json", "dot", "onnx"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="Write text (large constants beside it) or ONNX there.")
@click.option("--opset", type=int, help="The ONNX opset to write; the model's own if left out.")
@click.option("--plan", "planned", is_flag=True, help="Print also what runs, in order, and the kernels' texts.")
@tuning_options
def dump(model: str, after: str | None, passes: str | None, every: bool, changes: bool, form: str, as_json: bool,
         output: str | None, opset: int | None, planned: bool, options: Options) -> None:  # fmt: skip
    """Print the IR of MODEL, optimized or after a pass. Large constants are shown by their hashes."""
    from ..engine.compiler import load, optimize, select_for, tune_module
    from ..engine.report import CompileReport
    from ..ir.passes.manager import print_pass, print_pipeline
    from ..ir.printer import print_module

    form = "json" if as_json else form
    if output and (form not in ("text", "onnx") or every or changes):
        raise click.UsageError("--output writes one module as text or ONNX; drop --json, other formats and --print-ir-after-...")
    if form == "onnx" and not output:
        raise click.UsageError("--format onnx writes a file; name it with --output")
    if opset is not None and form != "onnx":
        raise click.UsageError("--opset is for --format onnx")
    options = replace(options, passes=passes)
    module = load(model, options)
    chosen = _until(after, options)
    last, steps = print_module(module) if changes else "", []

    def observe(p: Any, m: Module) -> None:
        nonlocal last
        text = print_module(m) if changes else ""
        if every or text != last:
            if form == "json":
                steps.append({"after": print_pass(p), **module_as_dict(m)})
            else:
                click.echo(f"// after {print_pass(p)}\n{show(m, form)}")
        last = text

    if chosen:
        optimize(module, replace(options, passes=print_pipeline(chosen)), CompileReport(), observe if every or changes else None)
    if every or changes:
        if form == "json":
            print_json(steps)
    elif output:
        _write(module, output, form, opset)
    elif form == "json":
        print_json(module_as_dict(module))
    else:
        click.echo(show(module, form), nl=False)
        whole = form == "text" and after is None and passes is None
        if planned or (whole and options.target == "cuda"):
            from ..engine.plan_text import plan_text

            report = CompileReport()
            with progress("compiling") as say:
                tune_module(module, options, report, say)
            ways = None if report.tuning is None else report.tuning.ways(report.tuning.about)
            click.echo("\n" + clean(plan_text(module, select_for(options, ways))), nl=False)


def _write(module: Module, output: str, form: str, opset: int | None) -> None:
    if form == "onnx":
        from ..frontends.onnx.writer import write

        write(module, output, opset)
    else:
        from ..frontends.text import write_text

        write_text(module, output)


def _until(after: str | None, options: Options) -> Sequence[Any]:
    """The passes of the pipeline up to the last one named `after`."""
    from ..engine.compiler import pipeline_text
    from ..ir import passes as _  # noqa: F401  (registers the passes)
    from ..ir.errors import IRError
    from ..ir.passes.manager import parse_pipeline, print_pipeline

    chosen = parse_pipeline(pipeline_text(options))
    if after is None:
        return chosen
    if after == "import":
        return []
    names = [p.name for p in chosen]
    if after not in names:
        raise IRError(f"the pipeline has no pass {after!r}; it is {print_pipeline(chosen)}")
    return chosen[: len(names) - names[::-1].index(after)]


def show(module: Module, form: str) -> str:
    """The module as text or dot, with a line end."""
    from ..ir.printer import print_module

    return module_as_dot(module) + "\n" if form == "dot" else print_module(module)


def module_as_dict(module: Module) -> dict[str, Any]:
    """The program as plain data: names, types, attributes, regions. Constants are given by type, not by contents."""

    def names(values: Sequence[Value | None]) -> list[str | None]:
        return [v.name if v is not None else None for v in values]

    def typed(values: Sequence[Value]) -> list[dict[str, str]]:
        return [{"name": v.name, "type": str(v.type)} for v in values]

    def graph(g: Graph) -> dict[str, Any]:
        nodes = [
            {"op": n.op.name, "operands": names(n.operands), "results": typed(n.results),
             "attrs": {k: str(v) for k, v in n.attrs.items()}, "loc": list(n.locs), "regions": [graph(r) for r in n.regions]}
            for n in g
        ]  # fmt: skip
        return {"name": g.name, "inputs": typed(g.inputs), "nodes": nodes, "outputs": names(g.outputs)}

    return {"name": module.name, "opsets": module.opsets, "constants": {n: str(v.type) for n, v in module.consts.items()},
            "symbols": {s.name: [s.lo, s.hi] for s in module.symbols.values()}, "graph": graph(module.main)}  # fmt: skip


def module_as_dot(module: Module) -> str:
    """The main graph in Graphviz's language: a box for each node with what its regions hold, an edge for each value it reads."""
    from ..ir.symbols import quote

    lines = ["digraph graphmill {", "  node [shape=box, fontname=monospace];"]

    def source(v: Value) -> str:
        return quote(f"#{v.node.name}" if v.node is not None else f"%{v.name}")

    for v in module.main.inputs:
        lines.append(f"  {source(v)} [shape=ellipse, label={quote(f'{v.name}: {v.type}')}];")
    for n in module.main:
        inner = [m.op.name for r in n.regions for m in r]
        more = " ..." if len(inner) > 8 else ""
        label = n.op.name + (f" = {' + '.join(inner[:8])}{more}" if inner else "")
        lines.append(f"  {quote('#' + n.name)} [label={quote(label)}];")
        for read in [*n.operands, *(n.captures() if n.regions else ())]:
            if read is not None and not read.is_const:
                lines.append(f"  {source(read)} -> {quote('#' + n.name)} [label={quote(str(read.type))}];")
    for i, v in enumerate(module.main.outputs):
        if not v.is_const:
            lines += [f'  "out{i}" [shape=ellipse, label={quote(v.name)}];', f'  {source(v)} -> "out{i}";']
    return "\n".join([*lines, "}"])
