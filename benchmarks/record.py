"""What every result records: commit, machine, versions. And the conversion of seconds to a row of a table."""

import json
import os
import platform
import statistics
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

HOME = Path(__file__).parent
RESULTS = HOME / "results"


def surroundings() -> dict[str, Any]:
    """The commit, the machine and the settings of this process that change its speed."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{processor()}, {os.cpu_count()} logical cores, {memory_gib():.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}".rstrip(", "),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "MKL_", "MALLOC_", "GLIBC_"))},
    }


def commit() -> str:
    """The commit that was run; "+" where files of the package or of the benchmark differed from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", HOME, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--", "../src", "*.py").strip()
        return git("rev-parse", "--short=10", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def memory_gib() -> float:
    """All memory of the machine; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


def write(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """One result as json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def ratios(seconds: dict[str, list[float]], name: str, base: str) -> list[float]:
    """How many times as fast as `base`, round by round: neighbours in time are compared."""
    return [b / own for own, b in zip(seconds[name], seconds[base], strict=True)] if base in seconds else []


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range: 1.23 [1.10-1.40]."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def milliseconds(seconds: list[float]) -> str:
    """Median and range in ms."""
    scaled = [1000 * s for s in seconds]
    return spread(scaled, digits=2 if statistics.median(scaled) < 100 else 0)
