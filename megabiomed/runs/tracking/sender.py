"""Tells a tracker what the files of a run say, in a thread beside the training: a server that is away costs no step.

metrics.jsonl and events.jsonl are what is to be told, and a small file in the run folder says how far this tracker was told.
What a server did not take, or a crash left over, is told by the next start or by `megabiomed track`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from megabiomed.config import RunConfig
from megabiomed.ground.figures import NOT_FINITE
from megabiomed.ground.json_lines import seconds_of
from megabiomed.ground.secrets import masked
from megabiomed.runs.history import EVENTS, METRICS
from megabiomed.runs.tracking.base import Figures, Make, Tracker
from megabiomed.runs.tracking.told import Told

# From half a minute to half an hour: a server that is down must not be asked after every step.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 1800.0
PATIENCE_S = 30.0
"""How long the end of a start waits for a tracker: a new store of MLflow on slow storage takes some seconds, and a server that
refuses answers at once."""
_MOST = 200
"""Figures of so many steps are told at once."""


class Sender:
    """One tracker of a run, and the thread that tells it.

    Args:
        kind: name of the tracker in the configuration.
        make: makes the tracker, at first and after a failure.
        say: prints a line on the terminal of the run.
        allowed: whether this start still holds the run.
    """

    def __init__(
        self, kind: str, make: Make, config: RunConfig, say: Callable[[str], None],
        allowed: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self.name = str(getattr(make, "name", kind))
        self._make = make
        self._config = config
        self._say = say
        self._allowed = allowed
        self._told = Told(config.folder, kind)
        self._made: Tracker | None = None
        self._tracker: Tracker | None = None
        self._new, self._closing = threading.Event(), threading.Event()
        self._status: str | None = None
        self._away = False
        self._pause = FIRST_PAUSE_S
        self._thread = threading.Thread(target=self._run, name=f"tracker {kind}", daemon=True)

    def start(self) -> None:
        """Begin to tell. The tracker is made here, so that no thread imports its packages while another one imports."""
        try:
            self._made = self._make()
        # Whatever it raises: a tracker may be anybody's code, and the figures are in metrics.jsonl as well.
        except Exception as error:
            self._put_off(error)
        self._thread.start()
        self._new.set()

    def wake(self) -> None:
        """The files say something new."""
        self._new.set()

    def close(self, status: str) -> None:
        """Nothing more will come in this start; see `Tracker.finish` for the status. Does not wait."""
        self._status = status
        self._closing.set()
        self._new.set()

    def wait(self, patience_s: float = PATIENCE_S) -> None:
        """After `close`: until everything was told, or for `patience_s` seconds, and say what was not."""
        self._thread.join(patience_s)
        if self._thread.is_alive() or self._away:
            folder = self._config.folder
            self._say(
                f"{self.name} was not told everything: the next start does it, or `megabiomed track {folder}` once the "
                "run is over"
            )

    def _run(self) -> None:
        status = None
        while status is None:
            # While it is away, what is new does not wake it.
            self._closing.wait(self._pause) if self._away else self._new.wait()
            self._new.clear()
            # Read before the files, so that nothing comes between the last look at them and the end.
            status = self._status
            try:
                if self._allowed():
                    self.tell(status)
            except Exception as error:
                self._put_off(error)

    def tell(self, status: str | None = None) -> None:
        """Tell everything that is new, now, and close the tracker if there is a status.

        Raises:
            Exception: whatever the tracker raises.
        """
        if self._tracker is None:
            tracker, self._made = self._made or self._make(), None
            tracker.start(self._config)
            self._tracker = tracker
        for values, place in self._told.new(EVENTS):
            kind = values.pop("event", None)
            if isinstance(kind, str):
                self._tracker.event(kind, values)
            self._told.until(EVENTS, place)
        figures: list[Figures] = []
        place = 0
        for values, place in self._told.new(METRICS):
            figures += _figures(values)
            if len(figures) == _MOST:
                self._hand_over(figures, place)
                figures = []
        self._hand_over(figures, place)
        if self._away:
            self._say(f"{self.name} answers again")
        self._away, self._pause = False, FIRST_PAUSE_S
        if status is not None:
            self._tracker.finish(status)

    def _hand_over(self, figures: list[Figures], place: int) -> None:
        assert self._tracker is not None
        if figures:
            self._tracker.metrics(figures)
            self._told.until(METRICS, place)

    def _put_off(self, error: Exception) -> None:
        """Make the tracker anew later. Said once, however long it is away."""
        self._tracker = self._made = None
        if self._away:
            self._pause = min(LONGEST_PAUSE_S, 2 * self._pause)
            return
        self._away = True
        self._say(
            f"warning: {self.name} fails: {masked(str(error))}; figures go on in {METRICS}, and it is told when it answers"
        )


def _figures(record: dict[str, Any]) -> list[Figures]:
    """The figures of a line of metrics.jsonl; lines of older releases have no time, and were told when they were written."""
    time, step = seconds_of(record.pop("time", None)), record.pop("step", None)
    if time is None or not isinstance(step, int):
        return []
    values = {
        name: math.nan if value == NOT_FINITE else float(value)
        for name, value in record.items()
        if value == NOT_FINITE or isinstance(value, int | float)
    }
    return [Figures(step, time, values)]
