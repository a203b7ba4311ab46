"""Networks that write to themselves: found in the first step, put back as they were, and named."""

from typing import NamedTuple

from torch import Tensor, nn

from upstairs.errors import UpstairsError


class Written(NamedTuple):
    """A tensor of a module, or the None in its place, as it was."""

    module: nn.Module
    name: str  # of the module
    attribute: str
    tensor: Tensor | None
    version: int  # torch counts changes in place
    copy: Tensor | None


def snapshot(root: nn.Module) -> list[Written]:
    """Every buffer of `root`, and every plain attribute of a module that holds a tensor, or None: a state to come.

    What a forward adds under a new name is not here: nothing can have been meant to read it before.
    """
    kept = []
    for name, module in root.named_modules():
        plain = {a: v for a, v in vars(module).items() if v is None or isinstance(v, Tensor)}
        for attribute, tensor in {**module._buffers, **plain}.items():
            version, copy = (0, None) if tensor is None else (tensor._version, tensor.detach().clone())
            kept.append(Written(module, name, attribute, tensor, version, copy))
    return kept


def check_unchanged(before: list[Written], harm: str = "while tasks adapt, so that tasks would see each other") -> None:
    """Compare with a snapshot, and put back what was written.

    Raises:
        UpstairsError: a module wrote to its own tensor; `harm` says when, and what comes of it.
    """
    found = ""
    for was in before:
        now = getattr(was.module, was.attribute, None)
        if now is was.tensor and (now is None or now._version == was.version):
            continue
        if was.tensor is None and not isinstance(now, Tensor):
            continue
        home = was.module._buffers if was.attribute in was.module._buffers else vars(was.module)
        home[was.attribute] = was.tensor
        if was.tensor is not None and was.copy is not None and was.tensor._version != was.version:
            was.tensor.data.copy_(was.copy)
        found = found or f"'{was.attribute}' of {type(was.module).__name__} ({was.name or 'the learner'})"
    if found:
        raise UpstairsError(
            f"{found} is written to {harm}: let `forward` return what it computes and keep nothing, or use a layer of "
            "torch.nn"
        )
