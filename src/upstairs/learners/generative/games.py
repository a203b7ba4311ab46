"""Learners with several players, such as a generator and a critic (Goodfellow et al. 2014), which take turns.

    theta_p <- theta_p - lr_p * d L_p(theta_1, ..., theta_n) / d theta_p,   one player p after another

Each player has its own meta-parameters and its own loss. The trainer treats every player as a learner; an ordinary
learner is the case of one player.
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

    Each player is a submodule, named in `sides` in the order of turns; every meta-parameter must belong to one of them.
    Training reports the score of the first player's predictions.
    """

    sides: dict[str, Side]

    @abstractmethod
    def player_loss(self, name: str, task: Task) -> tuple[Tensor, Tensor]:
        """Returns one player's loss on one task, with the other players' parameters constant, and predictions.

        The first player's predictions are those of the queries.
        """

    def meta_loss(self, task: Task) -> tuple[Tensor, Tensor]:
        """Returns the sum of the players' losses; its gradient in each player's parameters is that of its own loss."""
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
    """A game as one player's learner: the meta-loss is that player's, and only its parameters are trained."""

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
    """Returns the player of this meta-step, and the number of the round."""
    order = [player for player in players for _ in range(player.side.turns)]
    return order[step % len(order)], step // len(order)


def recent_means(steps: Mapping[str, Sequence[Sequence[float]]]) -> tuple[dict[str, float], float]:
    """Returns the means of the players' recent losses, and of the first player's recent scores.

    With several players each one's loss is given as `loss_NAME`, and `loss` is their sum.
    """
    means = {name: [sum(column) / len(seen) for column in zip(*seen, strict=True)] for name, seen in steps.items()}
    each = {f"loss_{name}": mean[0] for name, mean in means.items() if name and mean}
    first = next(iter(means.values()))
    return {"loss": sum(mean[0] for mean in means.values() if mean), **each}, first[1] if first else math.nan
