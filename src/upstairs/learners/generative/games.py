"""Several players in one learner: each has meta-parameters and a loss of its own, and they take turns.

    theta_p <- theta_p - rate_p * d L_p(theta_1, ..., theta_n) / d theta_p,   one player p after another

A generator and a critic (Goodfellow et al. 2014) are two. The trainer knows no game: it steps whatever learner's turn
it is, and an ordinary learner is the case of one player.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from upstairs.core import Examples, Learner, Player, Side, State, Task
from upstairs.functional.call import functional_call
from upstairs.tree import named_parameters_of


class Game(Learner[State]):
    """A learner whose meta-parameters belong to players with different losses.

    Each player is a submodule, named in `sides` in the order of their turns; all meta-parameters must be in one of
    them. Training reports the score of the first one's predictions.
    """

    sides: dict[str, Side]

    @abstractmethod
    def player_loss(self, name: str, task: Task) -> tuple[Tensor, Tensor]:
        """The loss of one player on one task, and predictions, of the queries where it is the first player.

        The parameters of the others are constants here.
        """

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """The sum of the players' losses, whose gradient in each one's parameters is that of its own loss."""
        found = [Turn(self, name).meta_loss(task) for name in self.sides]
        return torch.stack([loss for loss, _ in found]).sum(), found[0][1]

    def players(self) -> list[Player]:
        mine = {n: [p for p in self.get_submodule(n).parameters() if p.requires_grad] for n in self.sides}
        return [Player(name, Turn(self, name), mine[name], side) for name, side in self.sides.items()]


class _Loss(nn.Module):
    def __init__(self, game: Game) -> None:
        super().__init__()
        self.game = game

    def forward(self, name: str, task: Task) -> tuple[Tensor, Tensor]:
        return self.game.player_loss(name, task)


class Turn(Learner[State]):
    """A game as one player sees it: its meta-loss is its own, and only its own parameters learn."""

    def __init__(self, game: Game, name: str) -> None:
        super().__init__()
        self.loss, self.name = _Loss(game), name
        self.way, self.loss_fn = game.way, game.loss_fn

    def adapt(self, support: Examples, /) -> State:
        return self.loss.game.adapt(support)

    def predict(self, state: State, x: Tensor, /) -> Tensor:
        return self.loss.game.predict(state, x)

    @property
    def second_order(self) -> bool:
        return self.loss.game.second_order

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        own = f"game.{self.name}."
        others = {n: p.detach() for n, p in named_parameters_of(self.loss).items() if not n.startswith(own)}
        return functional_call(self.loss, others, self.name, task)


def whose_turn(players: list[Player], step: int) -> tuple[Player, int]:
    """The player who moves at this meta-step, and which round it is."""
    order = [player for player in players for _ in range(player.side.turns)]
    return order[step % len(order)], step // len(order)


def of_late(steps: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[dict[str, float], float]:
    """The mean of each player's recent losses, and of the recent scores, which are the first player's.

    Of several players there is each one's loss too, as `loss_NAME`, and the loss is their sum.
    """
    means = {name: [sum(column) / len(seen) for column in zip(*seen, strict=True)] for name, seen in steps.items()}
    each = {f"loss_{name}": mean[0] for name, mean in means.items() if name and mean}
    first = next(iter(means.values()))
    return {"loss": sum(mean[0] for mean in means.values() if mean), **each}, first[1] if first else math.nan
