"""What this machine's processor can do; needs no library."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def cpu_description() -> str:
    """The text of /proc/cpuinfo, empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def processor_name() -> str:
    """The processor's model where the system tells it, else its architecture."""
    found = re.search(r"^model name\s*:(.*)$", cpu_description(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def bf16_instructions(description: str) -> tuple[str, ...] | None:
    """The bf16 instruction sets that a /proc/cpuinfo text lists (x86: `flags`, ARM: `Features`); None if it lists none
    of any kind."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", description, re.MULTILINE)
    if found is None:
        return None
    return tuple(sorted({"avx512_bf16", "amx_bf16", "bf16"} & set(found[1].split())))
