"""Plan a fine-tuning: steps and rounds that fit a time budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.finetuning.dataset import SkippedPair

MOST_REFIT_STEPS = 400
STEPS_FOR_ONE, STEPS_PER_IMAGE, MOST_STEPS = 40, 2, 160  # see docs/explanation/fine-tuning.md
MEASURING_SHARE = 0.12  # largest fraction of the budget spent on scoring held-out images
FEWEST_STEPS, SMALLEST_BATCH = 15, 2
HALF_BATCH = 0.55  # time of a step with half the batch, as a fraction of a whole step
SPARE = 1.05  # steps take a little longer than when they were timed alone


@dataclass(frozen=True, slots=True)
class FineTunePlan:
    """What a fine-tuning is going to do."""

    images: int
    held_out: tuple[str, ...]
    folds: int
    steps: int
    rounds: int
    seconds: float
    step_seconds: float
    batch_size: int
    size: int
    device: str
    skipped: tuple[SkippedPair, ...] = ()
    new_domain_images: int | None = None


def describe_domain_shift(plan: FineTunePlan) -> str:
    """Format that a specialized model will be added; empty if the model itself is fine-tuned."""
    if plan.new_domain_images is None:
        return ""
    return (
        f"{plan.new_domain_images} of {len(plan.held_out)} images look different from the training data. "
        "Fine-tuning will add a specialized model for images like these; results on other images will not "
        "change."
    )


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured before the start, in seconds."""

    spent: float
    step: float
    """Of a fold's model, while those of all folds are trained."""
    measuring: float
    alone: float = 0.0
    """Of a model that is trained alone, if that takes longer; see `single`."""

    @property
    def single(self) -> float:
        """Seconds of a step of the model that is trained on all images."""
        return max(self.alone, self.step)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps of each model, and steps between two scores on the held-out images.

    ``refit`` steps on all images follow.
    """

    steps: int
    per_round: int
    refit: int = 0

    @property
    def rounds(self) -> int:
        """Points of the curve."""
        return -(-self.steps // self.per_round)


def make_schedule(
    config: FineTuneConfig, images: int, models: int, costs: Costs, refit: float = 0.0
) -> Schedule:
    """Fit steps and rounds into the settings' limits."""
    wanted = wanted_steps(config, images)
    if config.max_seconds is None:
        return _schedule(wanted, config.rounds, refit)
    room = config.max_seconds - costs.spent - closing_seconds(config, costs)
    rounds = config.rounds
    if costs.measuring:
        rounds = int(max(1, min(rounds, MEASURING_SHARE * room / costs.measuring)))
    per_step = models * costs.step + refit * costs.single
    steps = int((room - rounds * costs.measuring) / (per_step * SPARE))
    return _schedule(max(1, min(wanted, steps)), rounds, refit)


def fit_batch(config: FineTuneConfig, models: int, costs: Costs) -> tuple[int, Costs]:
    """Reduce the batch size if time is short: many small steps learn more than few large ones."""
    batch = config.batch_size
    while config.max_seconds is not None and batch > SMALLEST_BATCH:
        room = config.max_seconds - costs.spent - closing_seconds(config, costs) - costs.measuring
        if room / (models * costs.step * SPARE) >= FEWEST_STEPS:
            break
        batch, costs = batch // 2, scaled(costs, HALF_BATCH)
    return batch, costs


def scaled(costs: Costs, factor: float) -> Costs:
    """Return the costs with longer or shorter steps."""
    return replace(costs, step=costs.step * factor, alone=costs.alone * factor)


def _schedule(steps: int, rounds: int, refit: float) -> Schedule:
    return Schedule(steps, -(-steps // rounds), int(refit * steps))


def wanted_steps(config: FineTuneConfig, images: int) -> int:
    """Return the steps of each model without a time limit."""
    if config.epochs is not None:
        return max(1, -(-config.epochs * images // config.batch_size))
    return min(MOST_STEPS, STEPS_FOR_ONE + STEPS_PER_IMAGE * images)


def refit_steps(config: FineTuneConfig, schedule: Schedule, costs: Costs) -> int:
    """Return the number of steps on all images: as planned, or as many as time allows."""
    if config.max_seconds is None or not schedule.refit:
        return schedule.refit
    affordable = int((config.max_seconds - costs.spent) / (costs.single * SPARE))
    return max(0, min(affordable, MOST_REFIT_STEPS))


def closing_seconds(config: FineTuneConfig, costs: Costs) -> float:
    """Estimate the time of the final comparison, at every interpolation not scored yet."""
    return (len(config.interpolations) - 1) * costs.measuring


def planned_seconds(
    config: FineTuneConfig, models: int, schedule: Schedule, done: int, costs: Costs
) -> float:
    """Estimate the working time in all, after ``done`` steps of each model."""
    left = Schedule(schedule.steps - done, schedule.per_round)
    learning = (models * left.steps * costs.step + schedule.refit * costs.single) * SPARE
    return costs.spent + learning + left.rounds * costs.measuring + closing_seconds(config, costs)


def shortened(config: FineTuneConfig, schedule: Schedule, done: int, models: int, costs: Costs) -> Schedule:
    """Shorten a run that has become too slow for its budget; it never becomes longer."""
    if config.max_seconds is None:
        return schedule
    rounds = -(-(schedule.steps - done) // schedule.per_round)
    room = config.max_seconds - costs.spent - closing_seconds(config, costs) - rounds * costs.measuring
    # Solves (models * (steps - done) + refit * steps * single / step) * step = room for the steps.
    refit = schedule.refit / schedule.steps
    per_step = models + refit * costs.single / costs.step
    affordable = max(done, int((room / costs.step + models * done) / per_step))
    steps = min(schedule.steps, affordable)
    return Schedule(steps, schedule.per_round, int(refit * steps))
