from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.finetuning.schedule import (
    MOST_REFIT_STEPS,
    Costs,
    Schedule,
    fit_batch,
    make_schedule,
    planned_seconds,
    refit_steps,
    shortened,
    wanted_steps,
)


def config(**settings: object) -> FineTuneConfig:
    return FineTuneConfig.model_validate(settings)


def test_passes_become_steps() -> None:
    assert wanted_steps(config(epochs=3, batch_size=8), 20) == 8
    assert wanted_steps(config(epochs=1, batch_size=8), 1) == 1


def test_more_images_more_steps_up_to_a_limit() -> None:
    steps = [wanted_steps(config(), images) for images in (1, 5, 20, 100, 1000)]
    assert steps == sorted(steps)
    assert steps[-1] == steps[-2]


def test_rounds_are_about_as_many_as_asked_for() -> None:
    schedule = make_schedule(config(epochs=100, batch_size=1, rounds=8), 1, 1, Costs(0, 1, 1))
    assert (schedule.steps, schedule.rounds) == (100, 8)


def test_measuring_takes_no_more_than_its_share() -> None:
    """Two hundred images that take eight seconds to measure leave time to learn within a minute."""
    schedule = make_schedule(config(max_seconds=120, interpolations=(1.0,)), 200, 1, Costs(10, 0.4, 8))
    assert schedule.rounds <= 3
    assert schedule.steps * 0.4 > 50


@example(seconds=1.0, copies=1, spent=2.0, step=1.0, measuring=5e-324, refit=0.0)
@given(
    seconds=st.floats(1, 600),
    copies=st.integers(1, 5),
    spent=st.floats(0, 20),
    step=st.floats(0.01, 5),
    measuring=st.floats(0, 10),
    refit=st.floats(0, 5),
)
def test_plan_keeps_to_the_budget(
    seconds: float, copies: int, spent: float, step: float, measuring: float, refit: float
) -> None:
    settings, costs = config(max_seconds=seconds, epochs=500), Costs(spent, step, measuring)
    schedule = make_schedule(settings, 20, copies, costs, refit)
    assert schedule.steps >= 1
    assert schedule.rounds >= 1
    planned = planned_seconds(settings, copies, schedule, 0, costs)
    assert schedule.steps == 1 or planned <= seconds * 1.0001
    assert schedule.refit <= refit * schedule.steps


def test_what_is_behind_is_not_planned_again() -> None:
    schedule, costs = Schedule(10, 5), Costs(30, 1, 2)
    settings = config(interpolations=(0.5, 1.0))
    assert planned_seconds(settings, 1, schedule, 10, costs) == pytest.approx(32)
    assert planned_seconds(settings, 1, schedule, 0, costs) > planned_seconds(settings, 1, schedule, 5, costs)


@pytest.mark.parametrize(("step", "steps"), [(0.1, 100), (1.0, 70), (9.0, 52), (99.0, 50)])
def test_slow_machines_take_fewer_steps(step: float, steps: int) -> None:
    settings = config(max_seconds=100, interpolations=(0.5, 1.0))
    assert shortened(settings, Schedule(100, 50), 50, 1, Costs(78, step, 1)).steps == steps


def test_what_is_measured_already_is_not_measured_at_the_end() -> None:
    settings, costs = config(interpolations=(0.5,)), Costs(30, 1, 2)
    assert planned_seconds(settings, 1, Schedule(10, 5), 10, costs) == pytest.approx(30)


def test_steps_with_all_images_get_their_share_of_the_time() -> None:
    settings, costs = config(max_seconds=100, epochs=500, interpolations=(0.5,)), Costs(0, 1.0, 0)
    without, with_them = (make_schedule(settings, 20, 3, costs, refit) for refit in (0.0, 3.0))
    assert without.refit == 0
    assert with_them.refit == 3 * with_them.steps
    assert without.steps == pytest.approx(2 * with_them.steps, abs=1)
    planned = planned_seconds(settings, 3, with_them, 0, costs)
    assert planned == pytest.approx(planned_seconds(settings, 3, without, 0, costs), abs=7)


def test_both_kinds_of_steps_become_fewer_on_slow_machines() -> None:
    settings = config(max_seconds=100, interpolations=(0.5,))
    plan = Schedule(40, 10, refit=120)
    shorter = shortened(settings, plan, 10, 3, Costs(40, 0.5, 0))
    # 120 steps are affordable: 3 (s - 10) + 3 s = 120
    assert (shorter.steps, shorter.refit) == (25, 75)
    assert shortened(settings, plan, 10, 3, Costs(99, 0.5, 0)).steps == 10
    assert shortened(settings, plan, 10, 3, Costs(20, 0.1, 0)) == plan


def test_steps_with_all_images_fill_the_time_that_is_left() -> None:
    plan = Schedule(40, 10, refit=120)
    assert refit_steps(config(), plan, Costs(50, 0.5, 0)) == 120
    budget = config(max_seconds=100)
    assert refit_steps(budget, plan, Costs(16, 0.5, 0)) == 160
    assert refit_steps(budget, plan, Costs(79, 0.5, 0)) == 40
    assert refit_steps(budget, plan, Costs(101, 0.5, 0)) == 0
    assert refit_steps(budget, plan, Costs(10, 0.001, 0)) == MOST_REFIT_STEPS
    assert refit_steps(budget, Schedule(40, 10), Costs(10, 0.5, 0)) == 0


def test_without_a_budget_nothing_becomes_shorter() -> None:
    assert shortened(config(), Schedule(100, 10), 50, 3, Costs(1e6, 1e3, 1)) == Schedule(100, 10)


@pytest.mark.parametrize(("step", "batch"), [(0.3, 8), (1.0, 8), (2.0, 4), (3.0, 2), (60.0, 2)])
def test_slow_machines_take_smaller_steps(step: float, batch: int) -> None:
    settings = config(max_seconds=60, interpolations=(1.0,), batch_size=8)
    fitted, costs = fit_batch(settings, 3, Costs(1, step, 1))
    assert fitted == batch
    assert (costs.step < step) == (batch < 8)


def test_without_a_budget_steps_stay_as_large_as_they_are() -> None:
    assert fit_batch(config(batch_size=8), 3, Costs(1, 60.0, 1))[0] == 8
