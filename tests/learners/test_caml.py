"""CAML: its label codes, its reading against a loop, where it begins, and any number of classes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.tasks import WAY, blobs, double
from upstairs.core import Examples
from upstairs.learners.model_based.caml import Caml, LabelReader, caml, elmes
from upstairs.nets.sequence import sees
from upstairs.tree import index


def made() -> Caml:
    torch.manual_seed(0)
    learner = caml(nn.Flatten(), 8, way=WAY, width=8).double()
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return learner


def test_codes_have_one_length_and_equal_angles() -> None:
    """Of the classes that occur: places of the code that no class of the task has are zero."""
    code = elmes(torch.eye(6)[[0, 2, 3, 5, 2]])
    product = code @ code.T
    same = torch.tensor([[a == b for b in (0, 2, 3, 5, 2)] for a in (0, 2, 3, 5, 2)])
    torch.testing.assert_close(product, torch.where(same, 1.0, -1 / 3))
    assert (code[:, [1, 4]] == 0).all() and (elmes(torch.zeros(2, 6)) == 0).all()


@torch.no_grad()
def test_reading_is_that_of_a_loop() -> None:
    torch.manual_seed(1)
    reader = LabelReader(5, width=8, layers=2, heads=4).double()
    reader.alike.normal_(), reader.carry.normal_()
    x, code, mask = torch.randn(7, 5).double(), torch.randn(7, 3).double(), torch.tensor([1, 1, 0, 1, 1]) > 0
    added, label = reader.read_labelled(x, code, sees(mask, 2, causal=False))

    rows = [reader.enter(row) for row in x]
    codes = list(code)
    for i, attention in enumerate(reader.attention):
        u = [reader.norm[2 * i](row) for row in rows]
        new_rows, new_codes = [], []
        for t in range(7):
            visible = [j for j in range(7) if j == t or (j < 5 and mask[j])]
            parts, carried = [], codes[t].clone()
            for h in range(4):
                two = slice(2 * h, 2 * h + 2)
                q = attention.query(u[t])[two]
                score = [
                    float(q @ attention.key(u[j])[two]) / math.sqrt(2) + float(reader.alike[i, h] * codes[t] @ codes[j])
                    for j in visible
                ]
                total = sum(math.exp(s) for s in score)
                weight = [math.exp(s) / total for s in score]
                parts.append(sum(w * attention.value(u[j])[two] for w, j in zip(weight, visible, strict=True)))
                carried += reader.carry[i, h] * sum(w * codes[j] for w, j in zip(weight, visible, strict=True))
            row = rows[t] + torch.cat(parts)
            new_rows.append(row + reader.back[i](F.gelu(reader.forth[i](reader.norm[2 * i + 1](row)))))
            new_codes.append(carried)
        rows, codes = new_rows, new_codes
    torch.testing.assert_close(added, torch.stack([reader.head(reader.norm[-1](row)) for row in rows]))
    torch.testing.assert_close(label, torch.stack(codes))


def accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(-1) == y).double().mean())


def test_it_begins_as_a_nearest_class_mean() -> None:
    torch.manual_seed(0)
    tasks = blobs(200, shot=1, query=5, shape=(64,))
    noisy = tasks._replace(query=tasks.query._replace(x=tasks.query.x + 8 * torch.randn_like(tasks.query.x)))
    own = accuracy(caml(nn.Flatten(), 64, way=WAY).solve(noisy), noisy.query.y)
    support, query = (part.x / part.x.norm(dim=-1, keepdim=True) for part in noisy)  # one shot, in order of the classes
    plain = accuracy(-torch.cdist(query, support), noisy.query.y)
    assert 0.5 < plain < 0.95 and own > plain - 0.02


def test_it_serves_any_number_of_classes() -> None:
    """More than it was made for; and a place for a class without examples changes nothing."""
    learner, tasks = made(), double(blobs(way=9))
    nine = learner.for_way(9).solve(tasks)
    ten = learner.for_way(10).solve(tasks)
    torch.testing.assert_close(ten[..., :9], nine)
    assert (ten.argmax(-1) < 9).all()


def test_another_assignment_of_codes_permutes_the_answers() -> None:
    """To rounding, after training has moved every weight."""
    learner, task = made(), index(double(blobs()), 0)
    order = torch.tensor([3, 0, 4, 1, 2])
    support = Examples(task.support.x, order[task.support.y], task.support.mask)
    other = learner.predict(learner.adapt(support), task.query.x)
    torch.testing.assert_close(
        other[:, order], learner.predict(learner.adapt(task.support), task.query.x), rtol=0, atol=1e-12
    )
