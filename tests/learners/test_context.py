"""CAVIA: against a plain loop in which the context enters by its formula."""

import torch
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double, sinusoids
from upstairs.core import squared_error
from upstairs.engine.meta_backward import meta_backward
from upstairs.learners import cavia, modulated
from upstairs.learners.gradient.cavia import Concatenated, Film
from upstairs.nets import conv4, mlp


def check(learner, tasks, answer, sizes: list[int], lr: float, steps: int, loss) -> None:
    """`answer(contexts, x)` in a loop over tasks and steps, starting from contexts of zero."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(tasks.query.y)):
        contexts = [torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in sizes]
        for _ in range(steps):
            value = loss(answer(contexts, tasks.support.x[i]), tasks.support.y[i])
            grads = torch.autograd.grad(value, contexts, create_graph=True)
            contexts = [c - lr * g for c, g in zip(contexts, grads, strict=True)]
        total = total + loss(answer(contexts, tasks.query.x[i]), tasks.query.y[i])
    trained = [p for p in learner.parameters() if p.requires_grad]
    expected = torch.autograd.grad(total / len(tasks.query.y), trained)
    for recompute in (False, True):
        learner.zero_grad()
        meta_backward(learner, tasks, recompute=recompute)
        for p, g in zip(trained, expected, strict=True):
            assert g.abs().max() > 1e-6
            torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-12)


def test_concatenated_equals_a_loop() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(1 + 4, 6), nn.Tanh(), nn.Linear(6, 1))
    learner = cavia(Concatenated(inner, 4), way=None, inner_lr=0.1, steps=2, loss_fn=squared_error).double()

    def answer(contexts: list[Tensor], x: Tensor) -> Tensor:
        left, right = inner[0].weight[:, :1], inner[0].weight[:, 1:]
        return inner[2]((x @ left.T + right @ contexts[0] + inner[0].bias).tanh())

    check(learner, double(sinusoids(3)), answer, [4], 0.1, 2, lambda p, y: (p - y).square().mean())


def test_modulated_equals_a_loop() -> None:
    torch.manual_seed(0)
    learner = cavia(modulated(mlp((8,), widths=(6, 7), out=WAY), 4), way=WAY, inner_lr=0.5, steps=2).double()
    parts = dict(learner.net.named_parameters())
    assert sorted(n for n in parts if n.endswith("context")) == ["relu0.0.context", "relu1.0.context"]

    def answer(contexts: list[Tensor], x: Tensor) -> Tensor:
        for i in range(2):
            gain, shift = (parts[f"relu{i}.0.film.weight"] @ contexts[i]).split(len(parts[f"linear{i}.bias"]))
            z = x @ parts[f"linear{i}.weight"].T + parts[f"linear{i}.bias"]
            x = ((1 + gain) * z + shift).relu()
        return x @ parts["head.weight"].T + parts["head.bias"]

    check(learner, double(blobs(3)), answer, [4, 4], 0.5, 2, nn.functional.cross_entropy)


def test_film_scales_and_shifts_channels() -> None:
    film, z = Film(3, 2), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        film.context += torch.tensor([1.0, -2.0])
    gain, shift = (film.film.weight @ film.context)[:3], (film.film.weight @ film.context)[3:]
    torch.testing.assert_close(film(z)[1, 2], (1 + gain[2]) * z[1, 2] + shift[2])


def test_only_contexts_adapt_and_the_networks_start_the_same() -> None:
    torch.manual_seed(0)
    net = conv4((1, 16, 16), width=4, norm="batch", out=WAY)
    tasks = blobs(2, shape=(1, 16, 16))
    learner = cavia(modulated(net, 3), way=WAY, steps=0)
    torch.testing.assert_close(learner.solve(tasks)[0], net(tasks.query.x[0]))
    state = cavia(modulated(net, 3), way=WAY, steps=1).adapt(tasks.support._make(leaf[0] for leaf in tasks.support))
    assert len(state) == 4 and all(value.shape == (3,) and value.abs().sum() > 0 for value in state.values())
