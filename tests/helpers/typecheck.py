"""The checker that the import hook puts on every function: an int passes for a float, as type checkers have it.

jaxtyping's own decorator binds the arguments of each call once more, to remember the sizes of axes, and compiles two
functions for each that it decorates, closures included. Only functions whose annotations name a shape need that; for
the others beartype checks the same types alone, several times as fast.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Checks the types and shapes of every function of the library that is imported from here on."""
    jaxtyping.jaxtyped = jaxtyped  # the hook's decorators look it up there
    jaxtyping.install_import_hook("upstairs", "helpers.typecheck.check")


def jaxtyped(decorated: Any = None, *, typechecker: Callable[..., Any] | None = None) -> Any:
    """Stands in for `jaxtyping.jaxtyped`."""
    if decorated is None:
        return lambda found: jaxtyped(found, typechecker=typechecker)
    if inspect.isfunction(decorated) and not has_shape(decorated):
        return check(decorated)
    if dataclasses.is_dataclass(decorated) and not has_shape(decorated.__init__):
        if "__init__" in vars(decorated):
            decorated.__init__ = check(decorated.__init__)
        return decorated
    return _jaxtyped(decorated, typechecker=typechecker)


def has_shape(function: Callable[..., Any]) -> bool:
    return any(map(_names_a_shape, getattr(function, "__annotations__", {}).values()))


def _names_a_shape(annotation: Any) -> bool:
    """A string may: jaxtyping resolves it."""
    if isinstance(annotation, str) or (inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray)):
        return True
    inner = annotation if isinstance(annotation, list) else get_args(annotation)  # a list: a Callable's arguments
    return any(map(_names_a_shape, inner))
