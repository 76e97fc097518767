"""Every method that this package registers keeps the contract, with its defaults and in its other forms."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from algorithms.dapo import DAPO
from algorithms.gspo import GSPO
from algorithms.ipo import IPO
from algorithms.online_dpo import OnlineDPO
from algorithms.reinforce_pp import ReinforcePP
from algorithms.rft import RFT
from algorithms.rloo import RLOO
from algorithms.simpo import SimPO
from harness.api import Algorithm
from harness.api.testing import Check, parametrize_with_checks
from harness.plugins import registry


def defaults() -> list[type[Algorithm]]:
    found = [
        registry.load("algorithms", row.name) for row in registry.listing("algorithms") if "vlm-harness" in row.package
    ]
    return [one for one in found if issubclass(one, Algorithm)]


def form(cls: type[Algorithm], **options: Any) -> Algorithm:
    return cls(cls.Config(**options))


METHODS = [
    *defaults(),
    form(RLOO, beta=0.0, group_size=2),
    form(DAPO, overlong="keep", beta=0.1),
    form(DAPO, overlong="penalty", max_length=6, margin=3),
    form(GSPO, beta=0.1),
    form(ReinforcePP, baseline="group"),
    form(ReinforcePP, beta=0.0),
    form(IPO, average="sum", pairs="corrupted"),
    form(SimPO, pairs="gold_vs_worst"),
    form(OnlineDPO, rollouts=6),
    form(RFT, keep="all", average="sequence"),
]


@parametrize_with_checks(METHODS)
def test_registered_methods_keep_the_contract(check: Check) -> None:
    result = check.run()
    assert result.passed, result.message


def test_all_methods_of_the_package_are_checked() -> None:
    names = {method.__name__ for method in defaults()}
    assert {"SFT", "DPO", "GRPO", "RLOO", "DAPO", "KTO", "ReinforcePP", "RFT"} <= names


def test_all_that_the_package_declares_can_be_imported() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for group in (project["scripts"], *project["entry-points"].values()):
        for name, value in group.items():
            assert EntryPoint(name, value, "").load() is not None, name
    groups = {f"harness.{group}" for group in (*registry.GROUPS, "descriptions")}
    assert set(project["entry-points"]) == groups
