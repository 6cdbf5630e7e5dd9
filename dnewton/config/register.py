"""Names and the modules that know what they stand for: a name is known without an import, and imported when asked for.

A module at the top (a solver, a layer, a format) registers itself; whoever looks a name up stands below it and imports
nothing of it by name. So every import statement still goes down, and what no configuration names is never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Register(Generic[T]):
    """A table of names, each with the module that registers its object under it."""

    def __init__(self, what: str, modules: Mapping[str, str]) -> None:
        """`what` is a name's kind in messages, such as "solver"; `modules` are dotted paths, the only ones imported."""
        self._what = what
        self._modules = dict(modules)
        self._objects: dict[str, T] = {}

    def names(self) -> tuple[str, ...]:
        """All names, in the table's order; imports nothing."""
        return tuple(self._modules)

    def __contains__(self, name: object) -> bool:
        """Whether a name is known; imports nothing."""
        return isinstance(name, str) and name in self._modules

    def add(self, *names: str) -> Callable[[U], U]:
        """Decorator by which a module gives the object of its names. Raises LookupError for one that is not its own."""

        def register(thing: U) -> U:
            for name in names:
                owner = self._modules.get(name)
                if owner is None or name in self._objects:
                    why = "is not in the table" if owner is None else f"is registered already, by {owner}"
                    raise LookupError(f"{self._what} {name!r} {why}")
                self._objects[name] = thing  # type: ignore[assignment]
            return thing

        return register

    def extend(self, name: str, module: str, thing: T) -> bool:
        """A user's own object under a new name, or again under the one that the same `module` gave it; else False."""
        if self._modules.get(name, module) != module:
            return False
        self._modules[name] = module
        self._objects[name] = thing
        return True

    def __getitem__(self, name: str) -> T:
        """The object of a name; its module is imported if nobody has yet. Raises ValueError for an unknown name."""
        if name not in self:
            raise ValueError(self.unknown(name))
        if name not in self._objects:
            import_module(self._modules[name])
        if name not in self._objects:
            raise LookupError(f"{self._modules[name]} does not register the {self._what} {name!r}")
        return self._objects[name]

    def name_of(self, thing: object) -> str:
        """The (first) name that a thing is registered under, or nothing."""
        return next((name for name, known in self._objects.items() if known is thing), "")

    def unknown(self, name: object) -> str:
        """What to say of a name that is not known: the nearest one that is, or all of them."""
        import difflib  # for mistakes only

        near = difflib.get_close_matches(str(name).lower(), self._modules, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self._modules)}"
        article = "an" if self._what[0] in "aeiou" else "a"
        return f"{name!r} is not {article} {self._what}; {hint}"
