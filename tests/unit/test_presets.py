"""Every packaged study is whole; the paper's say what the paper says, and of each value where it comes from."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from harness.config.layers import preset_names
from harness.config.study import load_study
from harness.errors import UserError
from harness.study.matrix import cells_of

PAPER = ("paper-2b", "paper-7b")
GIVEN: dict[str, Any] = {
    "tuning": "lora",
    "temperature": 1.0,
    "group_size": 14,
    "beta": 1e-4,
    "learning_rate": {"paper-2b": 1e-5, "paper-7b": 5e-6},
}
"""arXiv 2504.00883, section 3.2."""


def text(name: str) -> str:
    return resources.files("harness.config.presets").joinpath(f"{name}.toml").read_text("utf-8")


@pytest.mark.parametrize("name", preset_names())
def test_every_study_loads(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study.budget.amount > 0


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_values(name: str) -> None:
    study = load_study(name)
    assert study.model.name == name.removeprefix("paper-")
    assert study.model.tuning == GIVEN["tuning"]
    assert study.rollout.temperature == GIVEN["temperature"]
    assert study.train.learning_rate == GIVEN["learning_rate"][name]
    config = study.algorithm("grpo").config
    assert (config.group_size, config.beta) == (GIVEN["group_size"], GIVEN["beta"])
    assert (config.loss_type, config.scale) == ("sequence", "group")
    assert study.algorithm("dpo:pairs=corrupted").needs.corrupted == 1
    assert set(study.reward.weights) == {"distance", "choice", "format"}
    assert study.report.with_published


def test_the_rows_of_table_2() -> None:
    """Trained in V, T or O and evaluated in V, T or O, as the paper's 2B rows are."""
    study = load_study("paper-2b")
    grpo = [study.for_method(method) for method in study.methods if method.startswith("grpo")]
    assert {(own.prompt.train, own.prompt.evaluation) for own in grpo} == {
        ("vanilla", "official"),
        ("think", "official"),
        ("observe", "official"),
        ("think", "think"),
        ("observe", "observe"),
    }
    for own in grpo:
        longest = own.prompt.evaluation in ("think", "observe")
        assert own.evaluation.max_new_tokens == (512 if longest else 16), "reasoning needs room"


@pytest.mark.parametrize("name", PAPER)
def test_every_value_says_where_it_comes_from(name: str) -> None:
    known = re.compile(r"# .*(paper|Table 2|ours|R1-V|no effect|VSI-Bench|published|as many|implied)")
    lines = text(name).splitlines()
    silent = [line for line in lines if re.match(r"\s*[\"\w]", line) and not known.search(line)]
    silent = [line for line in silent if not line.startswith(("name = ", "methods = ", "]"))]
    assert silent == []
    open_values = [line for line in lines if "not given" in line]
    assert len(open_values) > 15
    assert all("ours" in line or "default" in line or "all of it" in line for line in open_values)


@pytest.mark.parametrize(("name", "differs"), [("kl-ablation", 3), ("reward-ablation", 3)])
def test_ablations_differ_in_one_thing(name: str, differs: int) -> None:
    study = load_study(name)
    assert len(study.methods) == differs and study.seeds == 3
    views = [study.for_method(method) for method in study.methods]
    if name == "kl-ablation":
        configs = [study.algorithm(method).config.model_dump() for method in study.methods]
        for other in configs[1:]:
            assert {key for key in configs[0] if configs[0][key] != other[key]} == {"beta"}
        assert [config["beta"] for config in configs] == [1e-4, 0, 1e-2]
        assert all(own == views[0] for own in views)
    else:
        numeric = [next(iter(own.reward.weights)) for own in views]
        assert numeric == ["distance", "mra", "relative"]
        assert len({study.algorithm(method).config.model_dump_json() for method in study.methods}) == 1
    assert study.report.pairs


@pytest.mark.parametrize("name", PAPER)
def test_no_key_is_written_twice_or_unknown(name: str) -> None:
    document = tomllib.loads(text(name))
    assert "extends" not in document, "a paper's study stands alone"


def test_other_methods_leave_out_the_pairs_that_name_the_old_ones() -> None:
    assert load_study("paper-2b", methods=["grpo", "sft"]).report.pairs == (("base", "grpo"), ("sft", "grpo"))
    assert load_study("paper-2b", methods=["sft", "rloo"]).report.pairs is None


def test_bounds_of_frames_have_names() -> None:
    named = load_study("paper-2b", overrides=["data.pixels=lmms-eval"])
    written = load_study("paper-2b", overrides=["data.min_pixels=3136", "data.max_pixels=602112"])
    assert named == written  # 602,112 and 3,136: lmms-eval's models/simple/qwen2_vl.py
    assert load_study("paper-2b", overrides=["data.pixels=video-r1-train"]).data.max_pixels == 128 * 28 * 28
    for override, words in (
        ("data.pixels=lmms", "did you mean lmms-eval"),
        ("data.max_pixels=784", "max_pixels = 784 is below min_pixels = 12544"),
    ):
        with pytest.raises(UserError, match=words):
            load_study("paper-2b", overrides=[override])


def test_a_variant_may_be_asked_in_two_turns() -> None:
    study = load_study("tiny", methods=["grpo", "grpo:prompt.evaluation=cot:evaluation.two_turns=true"])
    own = study.for_method(study.methods[1])
    assert own.evaluation.two_turns and own.prompt.evaluation == "cot" and own.prompt.train == "vanilla"
    _, plain, two = cells_of(study, model_digest="m", train_digest="t")
    assert plain.training == two.training and two.suffix == "-cot16-two-turns"


def test_tables_call_other_rewards_by_their_names() -> None:
    study = load_study("reward-ablation")
    assert [study.label(method) for method in study.methods] == [
        "GRPO",
        "GRPO (rewards mra + choice + format)",
        "GRPO (rewards relative + choice + format)",
    ]
    study = load_study("tiny", methods=["grpo:reward.weights={mra=0.5}", "grpo:beta=0"])
    assert [study.label(method) for method in study.methods] == ["GRPO (rewards 0.5 mra)", "GRPO (beta=0)"]


def test_a_table_of_reward_weights_replaces_the_one_it_extends(tmp_path: Path) -> None:
    """Merged key by key, the rewards that a study leaves out would still count."""
    study = 'extends = "tiny"\n[reward.weights]\nmra = 1.0\n[train]\nwarmup_steps = 3\n'
    (tmp_path / "mine.toml").write_text(study)
    mine, tiny = load_study(tmp_path / "mine.toml"), load_study("tiny")
    assert mine.reward.weights == {"mra": 1.0} != tiny.reward.weights
    assert (mine.train.warmup_steps, mine.train.learning_rate) == (3, tiny.train.learning_rate)
