"""The tests see the library with its types and shapes checked at every call."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float, TypeCheckError

from helpers.typecheck import has_shape
from upstairs.data.text.hashed import TextFormat, buckets
from upstairs.functional.batching.kernels import affine
from upstairs.nets.norm import BatchNorm


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: buckets(3),
        lambda: TextFormat(words="three"),
        lambda: TextFormat(words=3).read("a", name=3),
        lambda: affine(torch.zeros(2, 3, 4), torch.zeros(3), torch.zeros(4)),
        lambda: affine(torch.zeros(2, 3, 4, dtype=torch.int64), torch.zeros(3), torch.zeros(3)),
        lambda: BatchNorm(3)(torch.zeros(2)),
    ],
    ids=["type", "field", "method", "sizes", "dtype", "axes"],
)
def test_what_an_annotation_excludes_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(TypeCheckError):
        wrong()


def test_a_result_of_another_type_or_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upstairs.data.text.hashed.cut_note", lambda *_: None)
    with pytest.raises(TypeCheckError):
        TextFormat(words=3).cut(["a"])
    monkeypatch.setattr("upstairs.data.text.hashed.hashed", lambda text: iter(()))
    monkeypatch.setattr(TextFormat, "shape", property(lambda self: (3, 4, 1)))
    with pytest.raises(TypeCheckError):
        TextFormat(words=3).read("a")


def test_which_annotations_name_a_shape() -> None:
    size = Float[torch.Tensor, "n"]

    def nested(one: int, two: dict[str, list[size] | None]) -> None: ...
    def taken(one: Callable[[int, size], None]) -> None: ...
    def returned() -> tuple[int, size]: ...
    def named(one: "size") -> None: ...
    def without(one: int, two: torch.Tensor | None = None) -> Callable[[int], torch.Tensor]: ...

    assert all(map(has_shape, (nested, taken, returned, named))) and not has_shape(without)
