"""When Newton says that f no longer falls, and when it must not."""

from __future__ import annotations

import pytest

from dnewton.solvers.damping import LARGEST
from dnewton.solvers.interface import IterationReport
from dnewton.solvers.newton.progress import REJECTED, STILL, Progress

EPSILON = 2.0**-23


def report(loss: float, damping: float = 1.0, alpha: float = 1.0) -> IterationReport:
    return IterationReport(loss, 1.0, 0.0, 1, damping, alpha=alpha)


def rejected(progress: Progress, times: int, damping: float, share: float) -> None:
    """Rejected steps whose dᵀGd is a share of -∇fᵀd."""
    for _ in range(times):
        progress.seen(report(1.0, damping, alpha=0.0), -1e-2, share * 1e-2)


def test_rejected_steps_that_damping_dominates() -> None:
    progress = Progress(EPSILON)
    rejected(progress, REJECTED - 1, 1e3, 1e-3)
    assert not progress.ended
    progress.seen(report(0.5, 1e3), -1e-2, 1e-5)  # one that is taken begins the count again
    rejected(progress, REJECTED - 1, 1e3, 1e-3)
    assert not progress.ended
    rejected(progress, 1, 1e3, 1e-3)
    assert progress.ended


def test_rejected_steps_while_damping_can_still_help() -> None:
    """λ of 1e-10 that rises by 1.5 needs 57 iterations to reach 1: no number of rejections alone is an end."""
    progress = Progress(EPSILON)
    rejected(progress, 60, 1e-3, 0.5)
    assert not progress.ended
    rejected(progress, REJECTED, LARGEST, 0.5)
    assert progress.ended


def test_broken_directions_are_no_end() -> None:
    progress = Progress(EPSILON)
    for _ in range(REJECTED):
        progress.seen(report(1.0, 1.0, alpha=0.0), float("nan"), float("nan"))
    assert not progress.ended


@pytest.mark.parametrize("fall", [1e-6, 1e-7, 5e-8])
def test_a_slow_fall_is_no_end(fall: float) -> None:
    """f that falls by less than one rounding in an iteration, with a model that promises as little and a fixed λ."""
    progress, loss = Progress(EPSILON), 1.0
    for _ in range(200):
        loss *= 1 - fall
        progress.seen(report(loss), -2 * fall, 0.0)
        assert not progress.ended


@pytest.mark.parametrize(
    ("damping", "promised", "ends"),
    [
        (lambda k: 1.0, 1e-6, True),
        (lambda k: 1e-10, 1e-6, True),
        (lambda k: 0.9**k, 1e-6, False),  # the next model will promise more
        (lambda k: 1.0, 0.1, False),  # steps are short, and λ may lengthen them
    ],
)
def test_f_that_stands_still(damping: object, promised: float, ends: bool) -> None:
    assert callable(damping)
    progress = Progress(EPSILON)
    for k in range(STILL):
        assert not progress.ended
        progress.seen(report(1.0 + EPSILON * (k % 2), damping(k)), -promised, promised)
    assert progress.ended == ends


def test_what_is_saved_goes_on_where_it_was() -> None:
    one = Progress(EPSILON, "a")
    rejected(one, REJECTED - 1, LARGEST, 0.5)
    two, other, finer = Progress(EPSILON, "a"), Progress(EPSILON, "b"), Progress(2.0**-52, "a")
    for progress in (two, other, finer):
        progress.restore(one.saved())
    assert two.saved() == one.saved()
    for progress in (one, two, other, finer):
        rejected(progress, 1, LARGEST, 0.5)
    assert one.ended and two.ended
    assert not other.ended and not finer.ended  # other settings, or another precision: another chance
    Progress(EPSILON).restore("")  # of an earlier version
    for damage in ("[1]", "{", '{"settings": "a", "last": [[1]]}'):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Progress(EPSILON, "a").restore(damage.replace('"a"', f'"a {EPSILON:.1e}"'))
