"""A loss of one's own: a class with a name, which nets then use like those of the package."""

from __future__ import annotations

from collections.abc import Callable

from dnewton.config.loss_entry import LOSSES, LossSection
from dnewton.errors import UserError

Loss = LossSection


def loss(name: str) -> Callable[[type[LossSection]], type[LossSection]]:
    """Decorator that gives a subclass of :class:`dnewton.Loss` its name.

    A model keeps the name, not the class: whoever loads the model imports the module of the class first. A class of
    the same module and name takes the place of an earlier one, as when a cell of a notebook is run again. Raises
    UserError for another's name.
    """

    def named(section: type[LossSection]) -> type[LossSection]:
        if not (isinstance(section, type) and issubclass(section, LossSection)):
            raise UserError(f"loss({name!r}): a subclass of dnewton.Loss is needed")
        if not LOSSES.extend(name, section.__module__, section):
            raise UserError(f"loss({name!r}): a loss of this name exists; choose another")
        return section

    return named
