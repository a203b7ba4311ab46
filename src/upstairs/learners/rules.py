"""Update rules: the inner optimiser, as two pure functions. A rule with meta-parameters is an nn.Module."""

from upstairs.inner import Params, UpdateRule, scale


class SGD:
    """Plain gradient descent: theta <- theta - rate * gradient."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def init(self, params: Params) -> tuple[()]:
        return ()

    def update(self, grads: Params, state: tuple[()]) -> tuple[Params, tuple[()]]:
        return scale(grads, -self.rate), state


__all__ = ["SGD", "Params", "UpdateRule"]
