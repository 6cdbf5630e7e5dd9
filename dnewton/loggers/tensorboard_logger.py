"""TensorBoard: event files in the run directory, written by tensorboardX, which needs no TensorFlow.

A resumed run begins a file of its own with the step at which it goes on, as TensorBoard asks for: it then leaves out
what older files have of this step and of later ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from dnewton.config import strict_yaml
from dnewton.config.logger_register import LOGGERS
from dnewton.loggers.interface import About, Logger, parameters


class TensorBoard(Logger):
    """See the module."""

    def __init__(self, about: About) -> None:
        self.identifier = "event files"
        self.where = f"tensorboard --logdir {about.folder}"
        number = len(list(about.folder.glob("events.*")))  # names have seconds alone, in which two may begin
        purge = about.first if about.identifier else None
        self._writer = SummaryWriter(str(about.folder), purge_step=purge, filename_suffix=f".{number}")
        for summary in hparams(parameters(about.config), {"loss": 0.0})[:2]:
            self._writer.file_writer.add_summary(summary)
        text = strict_yaml.dump(dict(about.config))
        self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), about.first)

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Flushed at once: who looks on sees every iteration."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, how: str) -> None:
        """The same for every end."""
        self._writer.close()


LOGGERS.add("tensorboard")(TensorBoard)
