"""Plot the curves of a run from its metrics.jsonl."""

from __future__ import annotations

from pathlib import Path

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.uses import RECORD
from megabiomed.ground.errors import ConfigError, DataError
from megabiomed.ground.json_lines import read_objects
from megabiomed.runs.history import METRICS, read_events
from megabiomed.runs.report.facts import Curve, curves_of

PICTURES = (".svg", ".png", ".pdf")


def read_curve(run: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, NaN for what was not finite.

    A step that was logged twice (after a resume) counts once, the later value.
    """
    curve = curves_of(read_objects(run / METRICS)).get(key, Curve([], []))
    return curve.steps, curve.values


def plot_run(run: Path, output: Path) -> None:
    """Losses and, below them, the learning rate over steps, with the resumes of the run; format by the file's suffix."""
    folder = locate(run).expect(RECORD).run
    if folder is None or not (folder / "metrics.jsonl").is_file():
        raise DataError(f"{run} holds no metrics", do="give the folder of a run that has logged steps")
    if output.suffix.lower() not in PICTURES:
        raise ConfigError(f"{output} names no kind of picture", expected=f"a name that ends in {', '.join(PICTURES)}")
    import matplotlib

    # Agg draws without a display.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (axes, rates) = pyplot.subplots(
        2, 1, sharex=True, figsize=(7, 5), height_ratios=(3, 1), layout="constrained"
    )
    for key, label, style in (("train/loss", "training", "-"), ("validation/loss", "validation", "o-")):
        steps, values = read_curve(folder, key)
        if steps:
            axes.plot(steps, values, style, label=label, markersize=4)
    resumed = [event["step"] for event in read_events(folder)
               if event["event"] == "resume" and isinstance(event.get("step"), int)]  # fmt: skip
    for number, step in enumerate(resumed):
        # One entry for all: a run of many starts would have more than its frame has room for.
        axes.axvline(step, color="grey", linestyle=":", label=None if number else "resume")
    axes.set(ylabel="loss per token (nats)", title=folder.name)
    axes.legend()
    rates.plot(*read_curve(folder, "train/lr"), color="grey")
    rates.set(xlabel="global_step", ylabel="learning rate")
    for each in (axes, rates):
        each.grid(alpha=0.3)
    figure.savefig(output)
    pyplot.close(figure)
