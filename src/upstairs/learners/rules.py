"""Update rules: the inner optimiser, as two pure functions. A rule with meta-parameters is an nn.Module."""

from upstairs.inner import Params, Scaled, UpdateRule


class SGD:
    """Plain gradient descent: theta <- theta - rate * gradient."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()]) -> tuple[Scaled, tuple[()]]:
        return Scaled(grads, -self.rate), state


__all__ = ["SGD", "Params", "UpdateRule"]
