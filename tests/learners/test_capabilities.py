"""What a learner can do is asked of the learner, never of its class, so that a plug-in can answer too."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import upstairs
from helpers.tasks import WAY
from upstairs.core import Examples, Learner, cross_entropy
from upstairs.errors import UpstairsError
from upstairs.learners import DN4, R2D2, MetaNAS, ProtoNet, maml, proto_maml, reptile, scratch
from upstairs.nets import BatchNorm, mlp

HOME = Path(upstairs.__file__).parent
OWN_ROOM = HOME / "learners"


class Plain(Learner[Tensor]):
    """A plug-in that says nothing about itself."""

    loss_fn = staticmethod(cross_entropy)
    way = WAY

    def adapt(self, support: Examples, /) -> Tensor:
        return support.x.mean()

    def predict(self, state: Tensor, x: Tensor, /) -> Tensor:
        return x


def test_no_other_room_asks_for_the_class_of_a_learner() -> None:
    asked = []
    for file in HOME.rglob("*.py"):
        if OWN_ROOM in file.parents:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                what = ast.unparse(node.args[0])
                classes = ast.unparse(node.args[1])
                if re.search(r"(^|\.)learner$", what) and classes not in ("Learner", "str", "str | Learner"):
                    asked.append(f"{file.relative_to(HOME)}: {ast.unparse(node)}")
    assert not asked, asked


def test_an_ordinary_learner_has_no_capability_and_says_so() -> None:
    learner = Plain()
    assert learner.task_kind == "classification" and learner.max_way is None and learner.inner_steps is None
    assert not (learner.embeds_alone or learner.transductive or learner.averages_views or learner.needs_hard_labels)
    assert not (learner.conditions_on_none or learner.bounds_likelihood or learner.noise_size)
    with pytest.raises(UpstairsError, match="`inner_steps` is 3 and Plain has no inner loop of steps: leave it out"):
        learner.with_steps(3)
    with pytest.raises(UpstairsError, match="Plain makes no examples"):
        learner.sample(torch.zeros(1), 2, torch.Generator())
    (player,) = learner.players()
    assert player.learner is learner and player.name == "" and player.parameters == []


@pytest.mark.parametrize("make", [maml, reptile])
def test_inner_steps_can_be_changed_on_a_copy_that_shares_its_weights(make) -> None:
    learner = make(mlp((8,), out=WAY), way=WAY, steps=2)
    other = learner.with_steps(5)
    assert (learner.inner_steps, other.inner_steps) == (2, 5) and type(other) is type(learner)
    assert [id(p) for p in other.parameters()] == [id(p) for p in learner.parameters()]
    with pytest.raises(UpstairsError, match="`inner_steps` is -1: it takes 0 or more"):
        learner.with_steps(-1)
    assert scratch(mlp((8,), out=WAY), way=WAY).inner_steps == 8
    assert bool(learner.needs_hard_labels) == (make is reptile)


def test_who_embeds_each_example_alone() -> None:
    net = mlp((8,))
    assert ProtoNet(net, way=WAY).embeds_alone and R2D2(net, way=WAY).embeds_alone
    assert not DN4(net, way=WAY).embeds_alone  # it adapts and predicts in ways of its own
    assert not ProtoNet(nn.Sequential(nn.Linear(8, 4), BatchNorm(4)), way=WAY).embeds_alone  # transductive
    assert not maml(mlp((8,), out=WAY), way=WAY).embeds_alone and not proto_maml(net, way=WAY).embeds_alone
    assert ProtoNet(net, way=WAY).averages_views and not DN4(net, way=WAY).averages_views
    assert MetaNAS(net, way=WAY).embeds_alone
