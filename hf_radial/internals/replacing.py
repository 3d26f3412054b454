"""Other methods on a single object, and another class in front of its own.

transformers and accelerate have no other way in at these places. `Accelerator.backward` is the last step before the gradient. A
callback is not asked for the loss. Checked with transformers 5.17 to 5.23 and accelerate 1.1 to 1.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def method_replaced(thing: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Let `thing.name(...)` call `method`. Afterwards the object is as it was, also after an error.

    >>> class Greeter:
    ...     def greet(self):
    ...         return "hello"
    >>> greeter = Greeter()
    >>> with method_replaced(greeter, "greet", lambda: "good morning"):
    ...     greeter.greet()
    'good morning'
    >>> greeter.greet(), vars(greeter)
    ('hello', {})
    """
    missing = object()
    before = vars(thing).get(name, missing)  # a replacement by other code
    setattr(thing, name, method)
    try:
        yield
    finally:
        if before is missing:
            delattr(thing, name)  # the class's method is visible again
        else:
            setattr(thing, name, before)


def put_in_front(thing: Any, front: type, module: str) -> type:
    """Give an object the methods of `front` before those of its class. Returns its class until now.

    `set_class` undoes it. The new class is called `Radial` and the name of the old one.

    Args:
        thing: the object; its attributes stay.
        front: a class whose methods may call `super()`.
        module: the module that the new class names as its own.
    """
    plain = type(thing)
    set_class(thing, type(f"Radial{plain.__name__}", (front, plain), {"__module__": module}))
    return plain


def set_class(thing: Any, kind: type) -> None:
    """Give an object another class, or the one back that `put_in_front` returned. Its attributes stay."""
    thing.__class__ = kind
