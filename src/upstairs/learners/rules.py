"""Update rules: the inner optimiser, as two pure functions. A rule with meta-parameters is an nn.Module."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Params = dict[str, Tensor]


@runtime_checkable
class UpdateRule(Protocol):
    """An inner optimiser: `params + updates` is the next iterate."""

    def init(self, params: Params) -> Any:
        """The rule's own state before the first step: a pytree of tensors."""
        ...

    def update(self, grads: Params, state: Any) -> tuple[Params, Any]:
        """Updates to add to the parameters, and the rule's next state."""
        ...


class SGD:
    """Plain gradient descent: theta <- theta - rate * gradient."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()]) -> tuple[Params, tuple[()]]:
        return {name: -self.rate * g for name, g in grads.items()}, state
