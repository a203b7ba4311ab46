"""Detection of networks that write to their own tensors, which are restored."""

from typing import NamedTuple

from torch import Tensor, nn

from upstairs.errors import UpstairsError


class Written(NamedTuple):
    """A copy of a tensor (or None) that is an attribute of a module."""

    module: nn.Module
    name: str  # of the module
    attribute: str
    tensor: Tensor | None
    version: int  # torch counts changes in place
    copy: Tensor | None


def snapshot(root: nn.Module) -> list[Written]:
    """Copies every buffer of `root`, and every attribute of a module that is a tensor or None (a state not yet set)."""
    kept = []
    for name, module in root.named_modules():
        plain = {a: v for a, v in vars(module).items() if v is None or isinstance(v, Tensor)}
        for attribute, tensor in {**module._buffers, **plain}.items():
            version, copy = (0, None) if tensor is None else (tensor._version, tensor.detach().clone())
            kept.append(Written(module, name, attribute, tensor, version, copy))
    return kept


def check_unchanged(before: list[Written], harm: str = "while tasks adapt, so that tasks would see each other") -> None:
    """Compares with a snapshot and restores what was written.

    Raises:
        UpstairsError: a module wrote to its own tensor; `harm` is the end of the message.
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
