"""Pipeline schedules, and which topologies each is exact for: one row says everything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PipelineSchedule:
    """An order of forwards and backwards on a pipeline rank.

    Attributes:
        implementation: class of torch.distributed.pipelining.
        several_chunks: whether a rank holds several chunks of layers, at least two; else one.
        fills: whether there must be at least as many micro-batches as stages: before its first backward pass a stage runs as
            many forwards as stages follow it.
        rounds: whether the micro-batches must be a multiple of the stages: several chunks take them in such groups.
        zero_stages: ZeRO stages that the parity suite proves.
        fsdp2: whether it proves FSDP2.
    """

    implementation: str
    several_chunks: bool = False
    fills: bool = False
    rounds: bool = False
    zero_stages: tuple[int, ...] = (0, 1, 2, 3)
    fsdp2: bool = True


PIPELINE_SCHEDULES = {
    "1f1b": PipelineSchedule("Schedule1F1B", fills=True),
    "gpipe": PipelineSchedule("ScheduleGPipe"),
    "interleaved": PipelineSchedule("ScheduleInterleaved1F1B", several_chunks=True, rounds=True, fsdp2=False),
}
"""By the name in `parallel.pipeline_schedule`."""
