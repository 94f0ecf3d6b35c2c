"""What stands over every table: the command that made it, and the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re

PACKAGES = ("numpy", "llvmlite", "onnx", "onnxruntime")


def machine(*others: str) -> str:
    """The machine's kind in a few words: processor, vector extension, cores, and the versions of what matters."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            text = f.read()
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set((re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE) or [""])[0].split())
    vector = next((v for v in ("avx512f", "avx2", "sse4_2") if v in flags), platform.machine())
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in dict.fromkeys(PACKAGES + others))
    return f"{name[1] if name else platform.processor()} ({vector}), {os.cpu_count()} cores; {versions}"


def made_by(command: str, *others: str) -> str:
    """The lines above a table; `others` are packages whose versions matter too."""
    return f"Made by `{command}` on {machine(*others)}.\n"
