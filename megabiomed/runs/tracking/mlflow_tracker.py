"""MLflow: a local store in the run folder by default, no server and no network; the same MLflow run after a resume."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from megabiomed.config import RunConfig
from megabiomed.ground.errors import ConfigError, MegabiomedError
from megabiomed.ground.figures import NOT_FINITE
from megabiomed.ground.mappings import leaves
from megabiomed.ground.secrets import MASK
from megabiomed.runs.tracking.base import Figures
from megabiomed.runs.tracking.credentials import VARIABLE, complete

_RUN_ID = "mlflow_run_id"
# Older MLflow servers refuse parameters with longer values, and requests with more metrics.
_LONGEST_PARAM = 500
_MOST_METRICS = 1000
_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""By this MLflow's pages show an experiment as model training, and ask nobody what it is."""
_ARTIFACTS = ("config.yaml", "import_certificate.json", "environment.json")
"""Files of a run folder that are kept with the MLflow run, those that there are."""


class MlflowTracker:
    """Logs parameters, metrics and the files that say what was run. Events are in events.jsonl alone."""

    name = "MLflow"

    def __init__(self) -> None:
        # MLflow's start-up migrations and telemetry write to the log of the training otherwise.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # The client's own limits are 7 tries of 120 s; here the tracker is asked again later.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient

        self._open: Any = MlflowClient
        self._client: Any = None
        self._folder = Path()
        self._run_id = ""

    def start(self, config: RunConfig) -> None:
        """See `Tracker`."""
        self._folder = config.folder.resolve()
        if config.tracking.mlflow_uri is None:  # SQLite itself gives no group the right to write
            (self._folder / "mlflow.db").touch()
        stored_uri = config.tracking.mlflow_uri or f"sqlite:///{self._folder / 'mlflow.db'}"
        uri = complete(stored_uri)
        self._client = self._open(tracking_uri=uri)
        try:
            experiment = self._experiment(config, local=config.tracking.mlflow_uri is None)
        except Exception as error:
            if MASK not in stored_uri or uri == os.environ.get(VARIABLE):
                raise
            raise ConfigError(
                "the tracking URI was stored without its credentials",
                got=error,
                do=f"export {VARIABLE} with them, or start from the file that has them",
            ) from error
        stored = self._folder / _RUN_ID
        if stored.is_file():
            self._run_id = stored.read_text().strip()
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            self._run_id = self._client.create_run(experiment, run_name=config.name).info.run_id
            stored.write_text(self._run_id + "\n")
            for key, value in leaves(config.model_dump(mode="json")):
                if value != {}:
                    self._client.log_param(self._run_id, key, str(value)[:_LONGEST_PARAM])
        self._keep_files()

    def _experiment(self, config: RunConfig, local: bool) -> str:
        """Id of the experiment that the configuration names."""
        name = config.tracking.experiment
        known = self._client.get_experiment_by_name(name)
        if known:
            return str(known.experiment_id)
        # A server knows where its artifacts belong.
        place = (self._folder / "mlartifacts").as_uri() if local else None
        return str(self._client.create_experiment(name, artifact_location=place, tags=_KIND))

    def _keep_files(self) -> None:
        for name in _ARTIFACTS:
            if (self._folder / name).is_file():
                self._client.log_artifact(self._run_id, str(self._folder / name))

    def metrics(self, figures: Sequence[Figures]) -> None:
        """See `Tracker`. What is not finite is NaN there, as MLflow keeps infinity as its largest number."""
        from mlflow.entities import Metric

        # MLflow counts time in milliseconds.
        every = [
            Metric(key, value, int(figure.time * 1000), figure.step)
            for figure in figures
            for key, value in figure.values.items()
        ]
        for begin in range(0, len(every), _MOST_METRICS):
            self._client.log_batch(self._run_id, every[begin : begin + _MOST_METRICS])
        broken = [f"{metric.key} at step {metric.step}" for metric in every if not math.isfinite(metric.value)]
        if broken:
            self._client.set_tag(self._run_id, NOT_FINITE, ", ".join(broken)[:_LONGEST_PARAM])

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """See `Tracker`."""

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._keep_files()
        if status == "FINISHED":
            self._keep_report()
        self._client.set_terminated(self._run_id, status)

    def _keep_report(self) -> None:
        # Imported here: it draws with matplotlib, and reads runs, whose trackers are this package.
        from megabiomed.runs.report.write import write_report

        with suppress(MegabiomedError):  # nothing to report on
            (page,) = write_report([self._folder], self._folder / "report.html")
            self._client.log_artifact(self._run_id, str(page))
