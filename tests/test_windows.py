import numpy as np
import pytest

import elsjax
from elsjax.process.windows import PUBLISHED_WINDOWS, at_least, published_table


def test_published_tables_have_an_entry_for_every_step():
    assert len(PUBLISHED_WINDOWS) == 10
    for name in PUBLISHED_WINDOWS:
        assert len(elsjax.published_windows(name).windows) == 20
    schedule = elsjax.published_windows("mnist/unet/zeros")
    assert [schedule(k / 20) for k in (1, 3, 4, 19, 20)] == [3, 3, 5, 25, 27]


@pytest.mark.parametrize(
    ("t", "window"), [(0.0, 3), (0.2, 3), (0.25, 3), (0.37, 3), (0.375, 5), (0.51, 5), (1.0, 9)]
)
def test_between_grid_points_the_nearest_entry_counts(t, window):
    assert elsjax.WindowSchedule((3, 5, 7, 9))(t) == window


SCHEDULES = [
    elsjax.CosineSchedule(0.008),
    elsjax.LinearBetaSchedule(),
    elsjax.LinearBetaSchedule(num_steps=7, beta_last=0.9),
    elsjax.ExponentialSchedule(4),
]


def noise_angle(schedule, t):
    alpha, sigma = (np.asarray(level, float) for level in schedule(t))
    return np.arctan2(sigma, alpha)


@pytest.mark.parametrize("new", SCHEDULES)
@pytest.mark.parametrize("old", SCHEDULES)
def test_transferred_windows_are_of_the_same_noise_levels(old, new):
    windows = elsjax.WindowSchedule(tuple(range(1, 64, 2)))
    found = windows.transferred(old, new, 50)
    if old == new:
        assert found is windows
        return
    assert len(found.windows) == 50
    t = np.arange(1, 51) / 50
    for at, window in zip(noise_angle(new, t), found.windows, strict=True):
        # Half an entry earlier or later, the noise is less or more, but for rounding.
        place = (window + 1) / 2 / 32
        ends = np.clip([place - 0.5 / 32 - 1e-3, place + 0.5 / 32 + 1e-3], 0, 1)
        below, above = noise_angle(old, ends)
        assert below <= at or window == 1
        assert at <= above or window == 63


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("cosine", SCHEDULES[0], "old='cosine' must be a Sched"), (SCHEDULES[0], None, "new=None")],
)
def test_windows_are_transferred_between_schedules(old, new, message):
    with pytest.raises(ValueError, match=message):
        elsjax.WindowSchedule((3,)).transferred(old, new, 20)


def test_windows_are_transferred_to_some_steps():
    for wrong in (0, 2.5):
        with pytest.raises(ValueError, match=f"num_steps={wrong} must be an integer of at least"):
            elsjax.WindowSchedule((3,)).transferred(SCHEDULES[0], SCHEDULES[0], wrong)


@pytest.mark.parametrize(
    ("windows", "message"),
    [((), "must hold at least one"), ((3, 0), r"windows\[1\]=0 must be an integer of at least 1")],
)
def test_wrong_schedules_are_refused(windows, message):
    with pytest.raises(ValueError, match=message):
        elsjax.WindowSchedule(windows)


def test_unknown_table_lists_the_known_ones():
    with pytest.raises(ValueError, match="name='mnist' is not known; .*mnist/unet/zeros"):
        elsjax.published_windows("mnist")


def test_the_table_of_a_data_set_and_a_kind_of_network():
    assert published_table("cifar10", "resnet", "circular") == "cifar10/resnet/circular"
    assert published_table("mnist5k", "unet", "zeros") == "mnist/unet/zeros"
    assert published_table("mnist5k", "unet", "circular") is None
    assert published_table("photos", "unet", "zeros") is None


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (np.array([0.1, 0.5]), r"t has shape \[2\]; expected one number in \[0, 1\]"),
        (1.5, r"t=1.5 must lie in \[0, 1\]"),
    ],
)
def test_a_window_is_of_one_time(t, message):
    with pytest.raises(ValueError, match=message):
        elsjax.published_windows("mnist/unet/zeros")(t)


def test_a_window_is_at_least_a_side():
    assert at_least(elsjax.WindowSchedule((3, 7, 5)), 5) == elsjax.WindowSchedule((5, 7, 5))
    assert [at_least(window, 5) for window in (3, 7, None)] == [5, 7, None]
    with pytest.raises(ValueError, match="side=0 must be an integer of at least 1"):
        at_least(None, 0)
