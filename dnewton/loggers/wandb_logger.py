"""Weights & Biases: a run of a project. Where it goes is wandb's own business (WANDB_PROJECT, WANDB_MODE, ...).

A resumed run continues its wandb run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from dnewton.config.logger_register import LOGGERS
from dnewton.loggers.interface import FINISHED, STOPPED, About, Logger


class WeightsAndBiases(Logger):
    """See the module."""

    def __init__(self, about: About) -> None:
        quiet = wandb.Settings(console="off", silent=True)  # standard output is the run's own
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dnewton"),
            name=os.environ.get("WANDB_NAME", about.name),
            dir=os.environ.get("WANDB_DIR", str(about.folder)),
            id=about.identifier or None,
            resume="allow",
            config=dict(about.config),
            settings=quiet,
        )
        self.identifier = self._run.id
        offline = f"offline; wandb sync {self._run.dir.removesuffix('/files')}"
        self.where = offline if self._run.offline else str(self._run.url)

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """Steps that the server has from before a crash are not sent again."""
        if step >= self._run.step:
            self._run.log(dict(figures), step=step, commit=True)

    def close(self, how: str) -> None:
        """A stopped run is marked as one that will go on."""
        if how == STOPPED:
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if how == FINISHED else 1)


LOGGERS.add("wandb")(WeightsAndBiases)
