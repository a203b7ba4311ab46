# ruff: noqa: T201
"""The workloads in JAX: vmap over tasks, jit of the whole meta-gradient. jax_peer.py runs it in JAX's own environment.

python jax_worker.py FOLDER SETTINGS: it reads params.npz and data.npz, and then, for every number N on standard
input, takes N steps, writes gradients.npz and prints the seconds per step.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def conv4(params, x):
    """The network of workloads.Conv4 without its last layer."""
    for i in range(4):
        kernel, bias = params[f"body.{i}.0.weight"], params[f"body.{i}.0.bias"]
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        x = x + bias[:, None, None]
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        x = (x - mean) * lax.rsqrt(variance + 1e-5)
        x = x * params[f"body.{i}.1.weight"][:, None, None] + params[f"body.{i}.1.bias"][:, None, None]
        x = jax.nn.relu(x)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return x.reshape(len(x), -1)


def mlp(params, x):
    """The network of workloads.sinusoid_net."""
    for i in (0, 2, 4):
        x = x @ params[f"{i}.weight"].T + params[f"{i}.bias"]
        x = jax.nn.relu(x) if i < 4 else x
    return x


def cross_entropy(logits, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()


def make_meta_loss(method, steps, lr, first_order, way):
    """(params, data) -> the mean query loss over tasks."""

    def loss(params, x, y):
        if method == "mse":
            return jnp.square(mlp(params, x) - y).mean()
        return cross_entropy(conv4(params, x) @ params["head.weight"].T + params["head.bias"], y)

    def maml(params, support_x, support_y, query_x, query_y):
        for _ in range(steps):
            grads = jax.grad(loss)(params, support_x, support_y)
            grads = lax.stop_gradient(grads) if first_order else grads
            params = jax.tree.map(lambda p, g: p - lr * g, params, grads)
        return loss(params, query_x, query_y)

    def protonet(params, support_x, support_y, query_x, query_y):
        z = conv4(params, jnp.concatenate([support_x, query_x]))
        support, query = z[: len(support_x)], z[len(support_x) :]
        member = jax.nn.one_hot(support_y, way, dtype=z.dtype)
        prototypes = member.T @ support / member.sum(0)[:, None]
        return cross_entropy(-jnp.square(query[:, None] - prototypes).sum(-1), query_y)

    def meta_loss(params, data):
        task = protonet if method == "protonet" else maml
        return jax.vmap(task, (None, 0, 0, 0, 0))(params, *data).mean()

    return meta_loss


def main() -> None:
    """Compile, step once, then so many steps as each line says."""
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    jax.config.update("jax_enable_x64", settings.pop("double"))
    params = {name: jnp.asarray(array) for name, array in np.load(folder / "params.npz").items()}
    arrays = np.load(folder / "data.npz")
    data = tuple(jnp.asarray(arrays[name]) for name in ("support_x", "support_y", "query_x", "query_y"))
    gradient = jax.jit(jax.grad(make_meta_loss(**settings)))

    def steps(repeats: int) -> None:
        start = time.perf_counter()
        for _ in range(repeats):
            grads = jax.block_until_ready(gradient(params, data))
        seconds = (time.perf_counter() - start) / repeats
        np.savez(folder / "gradients.npz", **{name: np.asarray(g) for name, g in grads.items()})
        print(seconds, flush=True)

    steps(1)
    for line in sys.stdin:
        steps(int(line))


if __name__ == "__main__":
    main()
