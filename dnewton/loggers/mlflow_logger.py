"""MLflow: a run of an experiment. Where it goes is MLflow's own business (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME).

A resumed run continues its MLflow run. Hyper-parameters of MLflow cannot change, so those of the first start stay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import mlflow
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from dnewton.config.logger_register import LOGGERS
from dnewton.loggers.interface import FAILED, FINISHED, STOPPED, About, Logger, parameters

STATES = {FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}
AT_ONCE = 100  # parameters in one message
LONGEST = 5000  # characters of a parameter; MLflow takes 6000
PROBE = "loss"  # the figure that every record has


class MLflow(Logger):
    """See the module."""

    def __init__(self, about: About) -> None:
        self._client = MlflowClient()
        self.identifier = about.identifier
        self._through = -1  # the last step that is there
        if about.identifier:
            self._client.update_run(about.identifier, status="RUNNING")
            history = self._client.get_metric_history(about.identifier, PROBE)
            self._through = max((metric.step for metric in history), default=-1)
        else:
            self._begin(about)
        experiment = self._client.get_run(self.identifier).info.experiment_id
        self.where = f"{mlflow.get_tracking_uri()}, experiment {experiment}, run {self.identifier}"

    def _begin(self, about: About) -> None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dnewton")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(name)
        self.identifier = self._client.create_run(experiment, run_name=about.name).info.run_id
        given = [Param(key, str(value)[:LONGEST]) for key, value in parameters(about.config).items()]
        for k in range(0, len(given), AT_ONCE):
            self._client.log_batch(self.identifier, params=given[k : k + AT_ONCE])

    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """One message. Steps that are there from before a crash are not sent again: they would be there twice."""
        if step <= self._through:
            return
        now = int(time.time() * 1000)
        self._client.log_batch(self.identifier, [Metric(name, value, now, step) for name, value in figures.items()])

    def close(self, how: str) -> None:
        """Set the state that MLflow shows."""
        self._client.set_terminated(self.identifier, STATES[how])


LOGGERS.add("mlflow")(MLflow)
