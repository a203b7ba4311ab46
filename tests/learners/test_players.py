"""Several players in one learner: their turns, their optimisers, and what each one's loss reaches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.runs import settings_of
from helpers.tasks import WAY, blobs
from upstairs.console import Status
from upstairs.core import Examples, Side, Task, cross_entropy
from upstairs.data.source import Source
from upstairs.data.splits import Splits
from upstairs.errors import UpstairsError
from upstairs.learners import LEARNERS, Entry, Game, ProtoNet, whose_turn
from upstairs.learners.registry import entry
from upstairs.schedule import lr_factor
from upstairs.settings import Settings
from upstairs.training.trainer import Trainer, restore, take_step, train_run


class Duel(Game[Tensor]):
    """Two matrices: `seek` makes its logits right and `hide` makes seek's wrong, less its own size."""

    loss_fn = staticmethod(cross_entropy)

    def __init__(self, way: int) -> None:
        super().__init__()
        self.seek, self.hide, self.way = nn.Linear(6, way), nn.Linear(6, 6, bias=False), way
        self.sides = {"seek": Side(turns=2), "hide": Side(lr=0.5, betas=(0.0, 0.9))}

    def adapt(self, support: Examples, /) -> Tensor:
        return support.x.mean()

    def predict(self, state: Tensor, x: Tensor, /) -> Tensor:
        return self.seek(x + self.hide(x))

    def player_loss(self, name: str, task: Task) -> tuple[Tensor, Tensor]:
        prediction = self.predict(self.adapt(task.support), task.query.x)
        loss = task.query.mean(cross_entropy(prediction, task.query.y))
        return (loss if name == "seek" else self.hide.weight.square().sum() - loss), prediction


def source(classes: int = 8) -> Source:
    x = np.random.default_rng(0).normal(size=(classes * 8, 6)).astype(np.float32)
    return Source.from_arrays(x, np.arange(classes).repeat(8))


def settings(name: str, **changes: object) -> Settings:
    values = {"learner": name, "net": "mlp", "norm": "none", "width": 8, "way": 4, "query": 3, "tasks": 2, "steps": 9}
    return settings_of(
        **{**values, "validations": 1, "validation_tasks": 4, "weight_decay": 0.1, "lr": 0.05, **changes}
    )


@pytest.fixture
def duel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEARNERS, "duel", Entry(lambda s, shape, way: Duel(way), "a game", classification={}))


@pytest.mark.usefixtures("duel")
def test_two_players_are_two_optimisers_written_by_hand(tmp_path: Path) -> None:
    s = settings("duel", clip=0.7)
    run = Trainer(s, Splits(source(), source(), source()), tmp_path)
    other = Duel(4)
    other.load_state_dict(run.learner.state_dict())
    seek = torch.optim.AdamW(other.seek.parameters(), weight_decay=0.1)
    hide = torch.optim.AdamW(other.hide.parameters(), betas=(0.0, 0.9), weight_decay=0.1)
    for step in range(9):
        task = run.episodes.batch([2**31 + 2 * step, 2**31 + 2 * step + 1])
        mine = step % 3 < 2
        x = task.query.x.flatten(0, 1)
        loss = nn.functional.cross_entropy(other.seek(x + other.hide(x)), task.query.y.flatten())
        loss = loss if mine else other.hide.weight.square().sum() - loss
        optimizer, module = (seek, other.seek) if mine else (hide, other.hide)
        other.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.7)
        optimizer.param_groups[0]["lr"] = (
            (1.0 if mine else 0.5) * 0.05 * lr_factor("cosine", done=step / 9, step=step // 3)
        )
        optimizer.step()
        taken = take_step(run)
        assert taken.player == ("seek" if mine else "hide")
        assert taken.loss == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
    for a, b in zip(run.learner.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("duel")
def test_each_loss_is_logged_and_their_sum(tmp_path: Path) -> None:
    run = Trainer(settings("duel"), Splits(source(), source(), source()), tmp_path)
    train_run(run)
    point = run.progress.history[-1]
    assert point["loss"] == pytest.approx(point["loss_seek"] + point["loss_hide"]) and 0 <= point["train_accuracy"] <= 1
    with pytest.raises(UpstairsError, match="several players"):
        Trainer(settings("duel", estimator="es"), Splits(source(), source(), source()), tmp_path)


@pytest.mark.usefixtures("duel")
def test_a_run_that_stops_between_two_players_resumes_bit_identical(tmp_path: Path) -> None:
    splits, s = Splits(source(), source(), source()), settings("duel")
    whole = Trainer(s, splits, tmp_path / "whole")
    train_run(whole)

    def interrupt(status: Status) -> None:
        if status.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Trainer(s, splits, tmp_path / "stopped"), interrupt)
    again = Trainer(s, splits, tmp_path / "stopped")
    restore(again)
    assert again.progress.step == 4
    train_run(again)
    for a, b in zip(whole.learner.parameters(), again.learner.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("name", "instead"), [("metagan", "train protonet"), ("figr", "train dagan or redrawing")])
def test_a_removed_learner_says_what_to_train_instead(name: str, instead: str) -> None:
    with pytest.raises(UpstairsError, match=f"'{name}' was removed, since .* {instead}"):
        entry(name)


def test_turns_go_round() -> None:
    players = Duel(3).players()
    names = [(whose_turn(players, step)[0].name, whose_turn(players, step)[1]) for step in range(4)]
    assert names == [("seek", 0), ("seek", 0), ("hide", 0), ("seek", 1)]
    alone = ProtoNet(nn.Linear(2, 2), way=2).players()
    assert [whose_turn(alone, step)[1] for step in range(3)] == [0, 1, 2] and len(alone) == 1


def test_a_loss_reaches_its_own_player_alone() -> None:
    torch.manual_seed(0)
    game, tasks = Duel(WAY), blobs(shape=(6,))
    whole = torch.autograd.grad(game(tasks)[0].sum(), list(game.parameters()), allow_unused=True)
    found = dict(zip(game.parameters(), whole, strict=True))
    for player in game.players():
        game.zero_grad(set_to_none=True)
        player.learner(tasks)[0].sum().backward()
        own = {id(p) for p in player.parameters}
        for p in game.parameters():
            assert (p.grad is not None) == (id(p) in own)
            if id(p) in own:
                torch.testing.assert_close(p.grad, found[p])
