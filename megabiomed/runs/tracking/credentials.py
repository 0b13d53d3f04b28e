"""The password of a tracking server: it travels to ranks and jobs in their environment, and is stored nowhere."""

from __future__ import annotations

import os

from megabiomed.config import RunConfig
from megabiomed.ground.secrets import MASK, masked_by_form

VARIABLE = "MLFLOW_TRACKING_URI"


def handed_over(config: RunConfig) -> dict[str, str]:
    """The variable by which started processes get a URI with credentials: the configuration that they read holds `***`."""
    uri = config.tracking.mlflow_uri
    return {VARIABLE: uri} if uri and masked_by_form(uri) != uri else {}


def complete(uri: str) -> str:
    """A URI with the credentials that its stored form lacks.

    Where MLFLOW_TRACKING_URI does not have them, the client asks as MLflow's other variables and files say, or as nobody.
    """
    handed = os.environ.get(VARIABLE, "")
    # Only for the same URI, so that a password never goes to another server.
    if MASK in uri and masked_by_form(handed) == uri:
        return handed
    return uri.replace(f"{MASK}@", "")
