"""The prefill of sampling serves the update, each prompt run once, where that is exact, possible and affordable."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import tiny_model, tiny_policy, tiny_prompt, tiny_video
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_kit import Kit, make_kit

from harness.api.types import Needs
from harness.config.study import ModelSection
from harness.engine import activation_reuse as reuse_module
from harness.engine.activation_reuse import activation_bytes, can_reuse
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.memory.trace import LiveBytes, policy_outline
from harness.models.loading import model_config, recompute_activations

GROUP = {"group_size": 4, "beta": 0.04}
NEEDS = Needs(rollouts=4)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


def train(kit: Kit, folder: Path, policy: Policy, **settings: Any) -> list[Tensor]:
    """One step of GRPO; the gradient, clipped to 1, that the optimiser is given."""
    given: list[Tensor] = []
    plain = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *rest: Any) -> Any:
        given.extend(one.grad.clone() for group in self.param_groups for one in group["params"])
        return plain(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        kit.trainer(folder, "grpo", policy, options=GROUP, budget=("steps", 1), **settings).train()
    return given


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs) > 10
    scale = torch.stack([one.norm() for one in theirs]).norm()
    assert scale > 0.01
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 1e-5 * scale


def passes_over_prefixes(policy: Policy, least: int) -> list[bool]:
    """Let every pass of a policy over at least so many columns be noted, and whether it had a gradient."""
    noted, plain = [], policy.forward

    def forward(embeddings: Tensor, *rest: Any, **inputs: Any) -> Tensor:
        if embeddings.shape[1] >= least:
            noted.append(torch.is_grad_enabled())
        return plain(embeddings, *rest, **inputs)

    policy.forward = forward  # type: ignore[method-assign]
    return noted


@pytest.mark.usefixtures("recompute")
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("rollout", [{}, {"batch": 2}], ids=["together", "in parts"])
def test_the_gradient_is_the_same_and_each_prompt_is_run_once(
    kit: Kit, tmp_path: Path, tuning: str, rollout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = kit.policy(tuning=tuning)
    length = min(len(kit.prompts(policy)(index).input_ids) for index in range(9))
    noted = passes_over_prefixes(policy, length)
    once = train(kit, tmp_path / "once", policy, prompts_per_step=1, rollout=rollout)
    assert noted.count(True) == 1, "the pass that sampled"
    monkeypatch.setattr("harness.engine.policy.can_reuse", lambda *_: False)
    assert_same(once, train(kit, tmp_path / "again", kit.policy(tuning=tuning), prompts_per_step=1, rollout=rollout))


@pytest.mark.usefixtures("recompute")
def test_several_prompts_and_micro_batches_give_the_same_gradient(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = train(kit, tmp_path / "once", kit.policy(), micro_batch=2)
    monkeypatch.setattr("harness.engine.policy.can_reuse", lambda *_: False)
    assert_same(once, train(kit, tmp_path / "again", kit.policy(), micro_batch=16))


@pytest.mark.usefixtures("recompute")
def test_memory_that_runs_out_in_the_update_leaves_the_gradient_alone(kit: Kit, tmp_path: Path) -> None:
    """The first try has left half a gradient in the leaves; the second does without them."""
    expected = train(kit, tmp_path / "enough", kit.policy(), prompts_per_step=2)
    policy = kit.policy()
    plain, calls = policy.log_probs, []

    def scarce(*args: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        if calls.count(True) == 2 and calls[-1]:
            raise torch.OutOfMemoryError("out of memory")
        return plain(*args)

    policy.log_probs = scarce  # type: ignore[method-assign]
    assert_same(train(kit, tmp_path / "short", policy, prompts_per_step=2, micro_batch=4), expected)
    assert calls.count(True) == 2 + 4


def test_nothing_is_kept_after_the_step_or_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, video = tiny_policy(frozen()), tiny_video((2, 4, 6))
    some = [tiny_prompt(video, [3, 4, 5]), tiny_prompt(tiny_video((1, 4, 4), 1), [3, 11])]
    one = activation_bytes(policy.base.config.text_config, len(some[0].input_ids), recompute=False)
    monkeypatch.setattr(reuse_module, "MAX_BYTES", one * 1.5)
    with policy.activation_reuse(NEEDS, 1) as reuse:
        assert reuse is not None
        assert reuse.accepts(some[:1])
        assert not reuse.accepts(some), "both need more memory than there is"
        for prompt in some:
            TransformersSampler(policy, 8).sample([prompt], 1, temperature=1.0, max_new_tokens=2, seed=0)
        assert list(reuse._places) == [some[0].id]
        assert not reuse.accepts(some[:1]), "not twice"
    assert policy._reuse is None


def test_an_engine_that_falls_back_within_a_step_records_no_graph() -> None:
    policy, prompt = tiny_policy(frozen()), tiny_prompt(tiny_video((2, 4, 6)), [3, 4, 5])
    with policy.activation_reuse(NEEDS, 1):
        for engine in ("shared", "naive"):
            with policy.prefill_gradient([prompt]):
                assert torch.is_grad_enabled() is (engine == "shared")
            policy.fall_back("this is a test")


@pytest.mark.usefixtures("recompute")
def test_a_prefill_that_no_gradient_reaches_is_freed() -> None:
    """Such as that of a prompt whose answers all have one reward."""
    policy, prompt = tiny_policy(frozen()), tiny_prompt(tiny_video((2, 4, 6)), [3, 4, 5])
    policy.video.of([prompt])
    gc.disable()
    try:
        with LiveBytes() as live:
            with policy.activation_reuse(NEEDS, 1) as reuse:
                assert reuse is not None
                TransformersSampler(policy, 8).sample([prompt], 1, temperature=1.0, max_new_tokens=1, seed=0)
                held = live.now
                reuse.backward()
            assert live.now < 0.05 * held
    finally:
        gc.enable()


class Attentions(TorchDispatchMode):
    """Counts the calls of the attention kernel on so many queries, forward and backward."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        if name.startswith("aten._scaled_dot_product") and self.queries in args[0].shape:
            self.calls["backward" if "backward" in name else "forward"] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.usefixtures("recompute")
def test_attention_over_a_prefix_is_computed_once_a_layer() -> None:
    policy, prompt = tiny_policy(frozen()), tiny_prompt(tiny_video((2, 4, 6)), [3, 4, 5])
    layers = len(policy.language_model.layers)
    with policy.activation_reuse(NEEDS, 1) as reuse, Attentions(len(prompt.input_ids) - 1) as seen:
        assert reuse is not None
        TransformersSampler(policy, 8).sample([prompt], 2, temperature=1.0, max_new_tokens=3, seed=0)
        policy.log_probs([prompt] * 2, [[4, 5], [6, 7, 1]])[0].sum().backward()
        reuse.backward()
    assert seen.calls == {"forward": layers - 1, "backward": layers - 1}, "the last layer's is never asked for"


def frozen() -> Any:
    model = tiny_model()
    model.model.visual.requires_grad_(False)
    return model


def test_which_policies_reuse_activations() -> None:
    assert can_reuse(tiny_policy(frozen()), NEEDS, 1)
    assert not can_reuse(tiny_policy(tiny_model()), NEEDS, 1), "a trained tower"
    assert not can_reuse(tiny_policy(frozen(), "naive"), NEEDS, 1)
    assert not can_reuse(tiny_policy(frozen(), precision="bf16"), NEEDS, 1)
    checkpointed = frozen()
    recompute_activations(checkpointed)
    assert not can_reuse(tiny_policy(checkpointed), NEEDS, 1)
    dropping = frozen()
    dropping.model.language_model.layers[0].mlp.add_module("dropout", torch.nn.Dropout(0.1))
    assert not can_reuse(tiny_policy(dropping), NEEDS, 1)


def test_a_policy_outlined_for_the_memory_estimate_decides_as_the_real_one(kit: Kit) -> None:
    for changes in (
        {},
        {"tuning": "lora"},
        {"tuning": "lora", "lora_dropout": 0.1},
        {"freeze_vision": False},
        {"gradient_checkpointing": True},
        {"precision": "bf16"},
    ):
        section: ModelSection = kit.section(**changes)
        config, precision = model_config(section.name), section.precision
        cpu, gpu = (policy_outline(config, section, precision, torch.device(name)) for name in ("cpu", "cuda"))
        assert can_reuse(cpu, NEEDS, 1) == can_reuse(kit.policy(**changes), NEEDS, 1), changes
        assert not can_reuse(gpu, NEEDS, 1)


def test_which_methods_reuse_activations() -> None:
    policy = tiny_policy(frozen())
    assert not can_reuse(policy, NEEDS, 2), "the second update has other weights"
    assert not can_reuse(policy, Needs(gold=True), 1)
    assert not can_reuse(policy, Needs(rollouts=4, shuffled=2), 1), "shuffled prompts are not trained on"


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_bytes_are_those_that_stay(kit: Kit, tuning: str, recompute: bool) -> None:
    """Of all tensors that sampling made, those that live on afterwards: at most what is counted, and not far below."""
    policy = kit.policy(tuning=tuning)
    prompt = kit.prompts(policy)(0)
    policy.video.of([prompt])
    with policy.activation_reuse(NEEDS, 1) as reuse, LiveBytes() as live:
        TransformersSampler(policy, 8).sample([prompt], 1, temperature=1.0, max_new_tokens=1, seed=0)
        assert reuse
        held = live.now
    counted = activation_bytes(policy.base.config.text_config, len(prompt.input_ids), recompute=recompute)
    assert 0.8 * counted < held < 1.15 * counted
