"""MLflow: a local store in the run folder by default, no server and no network; the same MLflow run after a resume."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import Any

from megabiomed.config import RunConfig
from megabiomed.ground.figures import NOT_FINITE

_LOG = logging.getLogger(__name__)
_RUN_ID = "mlflow_run_id"
_LONGEST_PARAM = 500


class MlflowTracker:
    """Logs parameters and metrics; a failure of MLflow is reported once and never ends the training."""

    def __init__(self, config: RunConfig) -> None:
        self._client: Any = None
        self._run_id = ""
        if config.tracking.mlflow:
            self._safely(lambda: self._open(config))

    def _open(self, config: RunConfig) -> None:
        # MLflow's start-up migrations and telemetry write to the log of the training otherwise.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient

        folder = config.folder.resolve()
        uri = config.tracking.mlflow_uri or f"sqlite:///{folder / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(config.tracking.experiment)
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
            for key, value in _flat(config.model_dump(mode="json")):
                client.log_param(self._run_id, key, str(value)[:_LONGEST_PARAM])
        self._client = client

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log scalars at a step; one that is not finite is NaN there, as MLflow keeps infinity as its largest number."""
        if self._client is None:
            return
        from mlflow.entities import Metric

        broken = ", ".join(
            f"{key} at step {step}: {value}" for key, value in metrics.items() if not math.isfinite(value)
        )

        def send() -> None:
            import time

            now = int(time.time() * 1000)
            values = {key: value if math.isfinite(value) else math.nan for key, value in metrics.items()}
            self._client.log_batch(self._run_id, [Metric(key, value, now, step) for key, value in values.items()])
            if broken:
                self._client.set_tag(self._run_id, NOT_FINITE, broken)

        self._safely(send)

    def finish(self, status: str) -> None:
        """Close the run with FINISHED, KILLED or FAILED."""
        if self._client is not None:
            self._safely(lambda: self._client.set_terminated(self._run_id, status))

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            _LOG.warning("MLflow is switched off for this run: %s", error)
            self._client = None


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return found
