"""A call that does not come back is ended, and the next one is answered."""

from __future__ import annotations

import os
import time

import pytest

from megabiomed.processes.time_limit import TimeLimited


def test_a_call_that_takes_too_long_is_ended_and_the_next_one_answered() -> None:
    with TimeLimited(time.sleep, 0.2) as sleep:
        with pytest.raises(TimeoutError, match="more than"):
            sleep(3600)
        sleep.seconds = 60
        assert sleep(0) is None


def test_results_and_errors_come_back_and_a_death_is_told() -> None:
    with TimeLimited(int, 60) as number:
        assert number("7") == 7
        with pytest.raises(ValueError, match="invalid literal"):
            number("x")
        assert number("8") == 8
    with TimeLimited(os._exit, 60) as leave, pytest.raises(TimeoutError, match="its process died"):
        leave(3)
