"""MLflow: a local store in the run folder by default, no server and no network; the same MLflow run after a resume."""

from __future__ import annotations

import logging
import math
import os
import time
from typing import Any

from megabiomed.config import RunConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.figures import NOT_FINITE
from megabiomed.ground.mappings import leaves
from megabiomed.ground.secrets import MASK
from megabiomed.runs.tracking.credentials import VARIABLE, complete

_RUN_ID = "mlflow_run_id"
# Older MLflow servers refuse parameters with longer values.
_LONGEST_PARAM = 500


class MlflowTracker:
    """Logs parameters and metrics. Events are in events.jsonl alone."""

    name = "MLflow"

    def __init__(self) -> None:
        self._client: Any = None
        self._run_id = ""

    def start(self, config: RunConfig) -> None:
        """See `Tracker`."""
        # MLflow's start-up migrations and telemetry write to the log of the training otherwise.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # The client's own limits, 7 tries of 120 s, hold up all ranks for minutes when a server is away.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient

        folder = config.folder.resolve()
        stored_uri = config.tracking.mlflow_uri or f"sqlite:///{folder / 'mlflow.db'}"
        uri = complete(stored_uri)
        client = MlflowClient(tracking_uri=uri)
        try:
            known = client.get_experiment_by_name(config.tracking.experiment)
        except Exception as error:
            if MASK not in stored_uri or uri == os.environ.get(VARIABLE):
                raise
            raise ConfigError(
                "the tracking URI was stored without its credentials",
                got=error,
                do=f"export {VARIABLE} with them, or start from the file that has them",
            ) from error
        experiment = known.experiment_id if known else client.create_experiment(
            config.tracking.experiment, artifact_location=(folder / "mlartifacts").as_uri()
        )  # fmt: skip
        stored = folder / _RUN_ID
        if stored.is_file():
            self._run_id = stored.read_text().strip()
            client.update_run(self._run_id, status="RUNNING")
        else:
            self._run_id = client.create_run(experiment, run_name=config.name).info.run_id
            stored.write_text(self._run_id + "\n")
            for key, value in leaves(config.model_dump(mode="json")):
                if value != {}:
                    client.log_param(self._run_id, key, str(value)[:_LONGEST_PARAM])
        self._client = client

    def metrics(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`. What is not finite is NaN there, as MLflow keeps infinity as its largest number."""
        from mlflow.entities import Metric

        # MLflow counts time in milliseconds.
        now = int(time.time() * 1000)
        kept = {key: value if math.isfinite(value) else math.nan for key, value in values.items()}
        self._client.log_batch(self._run_id, [Metric(key, value, now, step) for key, value in kept.items()])
        broken = {key: value for key, value in values.items() if not math.isfinite(value)}
        if broken:
            found = ", ".join(f"{key} at step {step}: {value}" for key, value in broken.items())
            self._client.set_tag(self._run_id, NOT_FINITE, found)

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """See `Tracker`."""

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run_id, status)
