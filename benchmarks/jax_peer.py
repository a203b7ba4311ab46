"""The JAX row: a process in JAX's own environment that takes a step on request, so that all rows take turns."""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from install_peers import JAX_PYTHON, why_missing
from peers import Peer, Unsupported
from workloads import Data, Gradients, Workload

WORKER = Path(__file__).parent / "jax_worker.py"


class JaxStep:
    """A step in the other process. Calling it answers the gradients; `time` measures over there, without the pipe."""

    def __init__(self, w: Workload, data: Data, first_order: bool) -> None:
        if not JAX_PYTHON.exists():
            raise Unsupported(why_missing("jax"))
        self.folder = tempfile.TemporaryDirectory()
        net = w.net(data.support_x.dtype)
        np.savez(Path(self.folder.name) / "params.npz", **{n: p.detach().numpy() for n, p in net.named_parameters()})
        np.savez(Path(self.folder.name) / "data.npz", **{n: leaf.numpy() for n, leaf in data._asdict().items()})
        settings = {
            "method": "mse" if w.regression else w.method,
            "steps": w.steps,
            "lr": w.lr,
            "first_order": first_order,
            "way": w.way,
            "double": data.support_x.dtype == torch.float64,
        }
        command = [str(JAX_PYTHON), str(WORKER), self.folder.name, json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()  # compiled, and run once

    def __call__(self) -> Gradients:
        self.time(1)
        with np.load(Path(self.folder.name) / "gradients.npz") as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}

    def time(self, repeats: int) -> float:
        """Seconds a step, over so many steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{repeats}\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> float:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the JAX process ended with status {self.process.wait()}: its error is above")
        return float(line)

    def close(self) -> None:
        """End the process: it stops when its input ends."""
        self.process.communicate()
        self.folder.cleanup()


def jax_version() -> str:
    code = "from importlib.metadata import version; print(version('jax'))"
    return subprocess.run([str(JAX_PYTHON), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


JAX = Peer(JaxStep, jax_version, methods=("maml", "protonet"))
