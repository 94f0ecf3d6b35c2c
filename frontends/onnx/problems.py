"""What is wrong with a model: one record a problem, collected until the whole model was looked at, then raised as one report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...ir.errors import ExportProblem, HostileModelError, ImportProblem

Report = ImportProblem | ExportProblem

MOST_LINES = 50  # problems that the message spells out; `problems` has them all
LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: the node (its ONNX name, or `%` and its first output), its operator, what is wrong and what to try."""

    message: str
    hint: str = ""
    node: str = ""
    op: str = ""
    domain: str = ""
    opset: int = 0
    attribute: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        op = f"{shown(self.domain)}.{shown(self.op)}" if self.domain else shown(self.op)
        where = f"node {shown(self.node)} ({op}, opset {self.opset}): " if self.op else ""
        return f"{where}{self.message}{'; ' + self.hint if self.hint else ''}"


class Problems(list[Problem]):
    """The problems found so far, in the order in which they were found; the same one is kept once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[Problem] = set()

    def add(self, problem: Problem) -> None:
        if problem not in self._seen:
            self._seen.add(problem)
            self.append(problem)

    def error(self, source: str, kind: type[Report] = ImportProblem) -> Report:
        """The report over all problems."""
        lines = [f"{source}: {len(self)} problem{'s' if len(self) != 1 else ''}"]
        lines += [f"  {p}" for p in self[:MOST_LINES]]
        if len(self) > MOST_LINES:
            lines.append(f"  ... and {len(self) - MOST_LINES} more")
        return kind("\n".join(lines), tuple(self))


def shown(name: str | bytes) -> str:
    """A name from a model as a message shows it: one printable line of bounded length."""
    if isinstance(name, bytes):
        name = name.decode("utf-8", "backslashreplace")
    if len(name) > LONGEST_NAME:
        name = name[:LONGEST_NAME] + "..."
    return name if name.isprintable() else name.encode("unicode_escape", "surrogatepass").decode("ascii")


def text(name: str | bytes) -> str:
    """A name as protobuf hands it out, which is bytes where it is no UTF-8. Raises HostileModelError for such a name."""
    if isinstance(name, bytes):
        raise HostileModelError(f"the name {name[:LONGEST_NAME]!r} is not UTF-8; expected an ONNX model whose names are text")
    return name
