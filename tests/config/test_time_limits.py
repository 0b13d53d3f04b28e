"""Every time-out of a run stands on one ladder, whatever a user sets and however long a step takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from megabiomed.config import RunConfig
from megabiomed.config.time_limits import LONGEST_S, MARGIN_S, SHORTEST_S, least_collective_s, time_limits

seconds = st.floats(0.01, 1e5)


def config(**train: float | None) -> RunConfig:
    return RunConfig.model_validate({"name": "t", "train": {"steps": 9, **train}})


@given(st.none() | seconds, seconds, st.none() | seconds, st.none() | seconds)
def test_the_guard_speaks_before_torch_gives_up_in_every_phase(
    hang: float | None, start: float, collective: float | None, slowest: float | None
) -> None:
    words = {"hang_timeout_s": hang, "hang_start_timeout_s": start, "collective_timeout_s": collective}
    if collective is not None and collective < least_collective_s(hang):
        with pytest.raises(ValidationError, match="is not after the hang guard"):
            config(**words)
        return
    train = config(**words).train
    limits = time_limits(train, slowest)
    assert limits.guard_s + MARGIN_S <= limits.collective_s
    assert limits.start_guard_s + MARGIN_S <= limits.start_collective_s < limits.patient_s
    assert limits.guard_s <= limits.start_guard_s
    assert limits.collective_s <= limits.start_collective_s
    if hang is None:
        assert limits.guard_s >= max(SHORTEST_S, 3 * (slowest or 0))
        assert limits.guard_s <= max(LONGEST_S, 3 * (slowest or 0))


def test_a_user_who_sets_torch_before_the_guard_is_told_what_would_fit() -> None:
    for hang, least in ((None, 1830), (6, 36)):
        with pytest.raises(ValidationError, match=f"set {least} or more"):
            config(hang_timeout_s=hang, collective_timeout_s=least - 1)
        assert config(hang_timeout_s=hang, collective_timeout_s=least).train.collective_timeout_s == least
    # Without a guard nobody speaks before torch does.
    assert time_limits(config(hang_timeout_s=0, collective_timeout_s=5).train).collective_s == 5
