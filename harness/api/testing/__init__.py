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

from harness.api.testing.suite import (
    Check,
    CheckResult,
    check_algorithm,
    check_guest,
    check_reward,
    check_training,
    checks_for,
    parametrize_with_checks,
)

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
