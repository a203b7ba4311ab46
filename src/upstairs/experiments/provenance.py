"""Where a number comes from: the machine, and the commit of this package."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from upstairs.training.optimizer import choose_device


def machine(asked: str) -> dict[str, Any]:
    """The processor, or the GPU, that did the work."""
    device = choose_device(asked)
    model = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cores, threads = os.cpu_count(), torch.get_num_threads()
    summary = gpu or f"{model}, {cores} cores, {threads} thread{'s' * (threads > 1)} used"
    return {"summary": summary, "processor": model, "cores": cores, "threads": threads, "gpu": gpu}


def commit() -> str | None:
    """The commit that the package is of, with a + where files differ from it; None outside a repository."""
    home = Path(__file__).parents[1]  # of the package
    try:
        ask = ["git", "-C", str(home)]
        found = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*ask, "status", "--porcelain", "-uno", "--", "."], capture_output=True, text=True, check=True
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found + ("+" if changed else "")
