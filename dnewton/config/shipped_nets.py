"""The nets shipped with the package, found by file name."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from dnewton.errors import UserError


def shipped_nets() -> list[str]:
    """Names of the nets in the package."""
    return sorted(f.name for f in resources.files("dnewton.config.nets").iterdir() if f.name.endswith(".yaml"))


def read_net(name: str) -> tuple[str, str]:
    """The text of a net and the folder that its data are relative to.

    Raises UserError when the name is neither a file nor a shipped net.
    """
    if os.path.isfile(name) or (os.path.exists(name) and name not in shipped_nets()):
        try:
            return Path(name).read_text(encoding="utf-8"), os.path.dirname(os.path.abspath(name))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise UserError(f"--net {name}: cannot be read: {reason}") from None
    if name in shipped_nets():
        return (resources.files("dnewton.config.nets") / name).read_text(encoding="utf-8"), os.getcwd()
    raise UserError(f"--net {name}: no such file, and no shipped net ({', '.join(shipped_nets())})")
