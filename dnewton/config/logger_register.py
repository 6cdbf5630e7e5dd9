"""The names of the loggers. Each one's file registers itself, and imports its library, when a run asks for it."""

from __future__ import annotations

from typing import Any

from dnewton.config.register import Register

_HERE = "dnewton.loggers"

# what is registered is a function that opens a logger: dnewton.loggers.interface.Opener
LOGGERS: Register[Any] = Register(
    "logger",
    {
        "tensorboard": f"{_HERE}.tensorboard_logger",
        "mlflow": f"{_HERE}.mlflow_logger",
        "wandb": f"{_HERE}.wandb_logger",
    },
)


def known(names: Any) -> Any:
    """A list of names as the YAML holds it, or one name. Raises ValueError for one that is not in the table."""
    found = [names] if isinstance(names, str) else names
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"a list of {', '.join(LOGGERS.names())} is needed")
    for name in found:
        if name not in LOGGERS:
            raise ValueError(LOGGERS.unknown(name))
    return list(dict.fromkeys(found))
