"""A learned update rule as a `torch.optim.Optimizer`, and its file format.

optimizer = LearnedOptimizer.load("rule.safetensors", net.parameters(), steps=500)
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upstairs.errors import UpstairsError
from upstairs.learners import LSTMRule, MLPRule
from upstairs.storage import load_tensors, save_tensors

LearnedRule = LSTMRule | MLPRule
RULES: dict[str, type[LSTMRule] | type[MLPRule]] = {"lstm": LSTMRule, "mlp": MLPRule}


class LearnedOptimizer(torch.optim.Optimizer):
    """An optimiser whose steps a learned rule computes; the rule itself is not trained further.

    Each tensor has its own state and is updated separately, as in meta-training.

    Args:
        params: as for any optimiser: parameters, or groups of them.
        rule: an `LSTMRule` or `MLPRule`; it is copied in the dtype of the parameters.
        steps: total number of steps, which the rule's schedule spans. None: as many as in meta-training.
        lr: factor of every update; 1 is the learned size.
    """

    def __init__(self, params: Any, rule: LearnedRule, *, steps: int | None = None, lr: float = 1.0) -> None:
        if lr < 0 or (steps is not None and steps < 1):
            raise UpstairsError(f"lr is {lr} and steps is {steps}: lr must be 0 or more, and steps 1 or more")
        super().__init__(params, {"lr": lr})
        first = self.param_groups[0]["params"][0]
        self.rule = copy.deepcopy(rule).to(device=first.device, dtype=first.dtype).requires_grad_(False)
        if steps is not None and isinstance(self.rule, MLPRule):
            self.rule.horizon = steps

    @torch.no_grad()  # torch's types split `step` into overloads, with a closure and without
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient; returns the result of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, group["lr"])
        return loss

    def update(self, p: Tensor, grad: Tensor, lr: float) -> None:
        """Updates one parameter; its state holds the fields of the rule's state."""
        if grad.is_sparse:
            raise UpstairsError("a gradient is sparse and a learned rule needs dense ones: use sparse=False")
        own = self.state[p]
        state: Any = self.rule.State(**own) if own else self.rule.init({"p": p})
        updates, after = self.rule.update({"p": grad}, state, {"p": p})
        self.state[p] = after._asdict()
        p.add_(updates["p"], alpha=lr)

    def save(self, path: str | Path) -> None:
        """Writes the rule to a safetensors file. `state_dict` holds the optimiser's state, as with any optimiser."""
        save_rule(self.rule, path)

    @classmethod
    def load(cls, path: str | Path, params: Any, *, steps: int | None = None, lr: float = 1.0) -> "LearnedOptimizer":
        """Creates an optimiser with the rule of a file."""
        return cls(params, load_rule(path), steps=steps, lr=lr)


def save_rule(rule: LearnedRule, path: str | Path) -> None:
    """Writes a rule's meta-parameters and constructor arguments to a safetensors file."""
    name = next(name for name, kind in RULES.items() if type(rule) is kind)
    save_tensors(Path(path), dict(rule.state_dict()), {"rule": name, "made": rule.made}, kind="rule")


def load_rule(path: str | Path) -> LearnedRule:
    """Reads a rule that `save_rule` wrote.

    Raises:
        UpstairsError: no such file; damaged; not a rule; a rule that this version does not know or that differs.
    """
    tensors, meta = load_tensors(Path(path), kind="rule")
    name, made = meta.get("rule"), dict(meta.get("made") or {})
    if name not in RULES:
        raise UpstairsError(
            f"{path} holds a rule of the kind '{name}' and this version of upstairs knows {', '.join(RULES)}: read it "
            f"with the version that wrote it, {meta.get('versions', {}).get('upstairs', 'which it does not name')}"
        )
    try:
        rule = RULES[name](**made)
        nn.Module.load_state_dict(rule, tensors)
    except (TypeError, RuntimeError) as error:
        raise UpstairsError(
            f"{path} does not fit the rule '{name}' of this version, made with {made}: read it with the version that "
            "wrote it, or train the rule again"
        ) from error
    return rule
