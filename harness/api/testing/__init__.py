"""The conformance suite: does a plugin keep the contract that makes comparisons fair?

In a test file::

    from harness.api.testing import parametrize_with_checks

    @parametrize_with_checks([MyMethod, MyMethod(MyMethod.Config(beta=0.0))])
    def test_contract(check):
        result = check.run()
        assert result.passed, result.message

On the command line ``harness check NAME`` also trains two steps on the tiny model (:func:`check_training`).
:func:`check_reward` does for rewards what :func:`check_algorithm` does for methods.

A method that breaks a check on purpose says so, with the reason::

    class KTO(Algorithm):
        exempt_checks = {"contrast": "a completion is good or bad in itself, not relative to the others"}
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.api.algorithm import Algorithm
from harness.api.guest import GuestTrainer
from harness.api.reward import Reward
from harness.api.testing.checks import CHECKS, ContractError, InapplicableError, Subject
from harness.errors import UserError, unknown_name

__all__ = [
    "Check",
    "CheckResult",
    "check_algorithm",
    "check_guest",
    "check_reward",
    "check_training",
    "checks_for",
    "parametrize_with_checks",
]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: The check.
        passed: Also true if the check does not apply or the method is exempt.
        message: The likely mistake, or why the check does not apply, or a remark.
    """

    name: str
    passed: bool
    message: str = ""


@dataclass(frozen=True)
class Check:
    """One check of one method."""

    name: str
    subject: Subject

    def run(self) -> CheckResult:
        """Run the check; anything the method raises becomes a failure with a message."""
        if (reason := self.subject.cls.exempt_checks.get(self.name)) is not None:
            return CheckResult(self.name, True, f"exempt: {reason}")
        return _run(self.name, partial(CHECKS[self.name], self.subject))

    def __str__(self) -> str:
        return f"{self.subject.cls.__name__}-{self.name}"


def checks_for(method: type[Algorithm] | Algorithm, config: Any = None) -> list[Check]:
    """All checks of a method.

    Args:
        method: A class, or an instance with its configuration.
        config: The configuration; by default the instance's, or the class's default one.

    Raises:
        UserError: It is not an :class:`~harness.api.Algorithm`, or is exempt from an unknown check.
    """
    subject = Subject.of(method, Algorithm, config)
    for name in subject.cls.exempt_checks:
        if name not in CHECKS:
            raise unknown_name(f"{subject.cls.__name__}.exempt_checks: {name}", name, CHECKS)
    return [Check(name, subject) for name in CHECKS]


def check_algorithm(method: type[Algorithm] | Algorithm, config: Any = None) -> list[CheckResult]:
    """Run all checks of a method; arguments and errors as in :func:`checks_for`.

    A method that cannot be constructed gives one failed result.
    """
    checks = checks_for(method, config)
    return _not_constructed(checks[0].subject) or [check.run() for check in checks]


def parametrize_with_checks(methods: Sequence[type[Algorithm] | Algorithm]) -> Any:
    """A pytest decorator: one test, with the argument ``check``, for each check of each method."""
    import pytest

    return pytest.mark.parametrize("check", [check for method in methods for check in checks_for(method)], ids=str)


def check_training(method: str, cache: Path = Path("cache")) -> list[CheckResult]:
    """Train a registered method for two steps on the tiny model: it must train, repeat and resume exactly.

    This takes about twenty seconds on a laptop. The first result's message gives the cost of a step.

    Args:
        method: Its name, or a variant such as ``grpo:beta=0``.
        cache: Folder for the few rooms generated for this.
    """
    from harness.api.testing.trial import ENGINE_CHECKS, Trial

    results: list[CheckResult] = []
    with tempfile.TemporaryDirectory(prefix="harness-check-") as folder:
        trial = Trial(method, Path(folder), cache)
        for name, check in ENGINE_CHECKS.items():
            results.append(_run(name, partial(check, trial)))
            if not results[0].passed:  # a method that cannot train can neither repeat nor resume
                break
    return results


GUEST_CHECKS = ("config", "documentation", "needs")
"""The checks that apply to a guest; the others are about ``experience`` and ``loss``."""


def check_guest(guest: type[GuestTrainer] | GuestTrainer) -> list[CheckResult]:
    """Check a guest's configuration, needs and versions; :func:`check_training` checks its loop."""
    subject = Subject.of(guest, GuestTrainer)

    def versions() -> str:
        return ", ".join(f"{name} {value[:12]}" for name, value in subject.new().versions().items())

    found = [_run(name, partial(CHECKS[name], subject)) for name in GUEST_CHECKS]
    return [*found, _run("versions", versions)]


def check_reward(reward: type[Reward] | Reward) -> list[CheckResult]:
    """Run all checks of a reward: a class with its default options, or an instance.

    Raises:
        UserError: It is not a :class:`~harness.api.Reward`.
    """
    from harness.api.testing.rewards import REWARD_CHECKS

    subject = Subject.of(reward, Reward)
    return _not_constructed(subject) or [_run(name, partial(check, subject)) for name, check in REWARD_CHECKS.items()]


def _not_constructed(subject: Subject) -> list[CheckResult]:
    """One failed result if a plugin cannot be constructed."""
    try:
        subject.new()
    except Exception as error:
        return [CheckResult("construction", False, f"raises {type(error).__name__}: {error}{_hint(error)}")]
    return []


def _run(name: str, check: Callable[[], str | None]) -> CheckResult:
    """Run one check; anything the plugin raises becomes a failure with a message."""
    try:
        remark = check()
    except InapplicableError as reason:
        return CheckResult(name, True, f"not applicable: {reason}")
    except (ContractError, UserError) as error:
        return CheckResult(name, False, str(error))
    except Exception as error:
        return CheckResult(name, False, f"raises {type(error).__name__}: {error}{_hint(error)}")
    return CheckResult(name, True, remark or "")


def _hint(error: Exception) -> str:
    text = str(error)
    if "is nan at step" in text or "is inf at step" in text:
        return " (does `loss` take exp of an unbounded difference, divide by 0, or take log of 0?)"
    if "abstract" in text:
        reward = "score" in text.split()[-1]
        return " (a reward defines `score`)" if reward else " (a method defines `needs`, `experience` and `loss`)"
    if "NoneType" in text:
        return " (batch.reference and batch.behaviour are None unless `needs` asks for them)"
    return ""
