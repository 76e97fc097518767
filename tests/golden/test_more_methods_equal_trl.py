"""The further methods equal TRL 1.16's trainers (or their loss functions) on the same text batch.

TRL's settings: as in ``test_losses_equal_trl``. REINFORCE++ has no counterpart in TRL; rejection sampling is TRL's SFT
on what was accepted; online DPO is TRL's DPO loss on its pairs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl", minversion="1.16.0")

from datasets import Dataset
from test_losses_equal_trl import (
    END,
    PROMPTS,
    assert_equal,
    common,
    completion,
    grpo_groups,
    grpo_trainer,
    log_probs,
    ours,
    padded,
    policy,
    reference,
    theirs,
    tokenizer,
)
from torch.nn.utils.rnn import pad_sequence
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOTrainer

from algorithms.dapo import DAPO
from algorithms.dr_grpo import DrGRPO
from algorithms.gspo import GSPO
from algorithms.ipo import IPO
from algorithms.kto import KTO
from algorithms.online_dpo import OnlineDPO
from algorithms.rft import RFT
from algorithms.rloo import RLOO
from algorithms.simpo import SimPO
from harness.api import Completion, Group

__all__ = ["policy", "reference"]  # fixtures

TEXT = [{"prompt": "w5 w6 w7"}, {"prompt": "w8 w9 w10 w11 w12"}] * 8


def batch(answers: list[Completion]) -> dict[str, torch.Tensor]:
    """A batch of prompts and completions as TRL's online trainers take it."""
    prompt_ids, prompt_mask = padded([PROMPTS[one.prompt_id] for one in answers], left=True)
    ids, mask = padded([one.tokens for one in answers])
    return {"prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "completion_ids": ids, "completion_mask": mask}


def pair_batch(pairs: list[tuple[Completion, Completion]]) -> dict[str, torch.Tensor]:
    """Chosen answers first, then the rejected ones, as TRL's DPO takes them."""
    rows = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
    ids, attention = padded([PROMPTS[one.prompt_id] + one.tokens for one in rows])
    scored, _ = padded([(0,) * len(PROMPTS[one.prompt_id]) + (1,) * len(one.tokens) for one in rows])
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": scored}


# ------------------------------------------------------------------ the family of GRPO


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("name", ["dr-grpo", "dapo", "gspo"])
def test_family_of_grpo(policy: Any, reference: Any, tmp_path: Path, name: str, beta: float) -> None:
    groups = grpo_groups(reference)
    shared = {"group_size": 4, "beta": beta}
    method: Any
    if name == "dr-grpo":
        method, settings = DrGRPO(DrGRPO.Config(max_length=6, **shared)), {"loss_type": "dr_grpo"}
    elif name == "dapo":  # bnpo is the mean over the batch's tokens, TRL's dapo over those of all processes
        method, settings = DAPO(DAPO.Config(**shared)), {"loss_type": "bnpo", "epsilon_high": 0.28}
    else:
        wide = {"clip_low": 0.05, "clip_high": 0.06}
        method = GSPO(GSPO.Config(**wide, **shared))
        settings = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.06}
    trainer = grpo_trainer(policy, tmp_path, beta=beta, **settings)
    trainer.current_gradient_accumulation_steps = 1
    answers = [one for group in groups for one in group.completions]
    inputs = batch(answers) | {
        "advantages": torch.tensor([a for g in groups for a in method.advantages([c.reward for c in g.completions])]),
        "old_per_token_logps": pad_sequence([torch.tensor(one.behaviour) for one in answers], batch_first=True),
        "ref_per_token_logps": pad_sequence([torch.tensor(one.reference) for one in answers], batch_first=True),
    }
    trl = theirs(trainer._compute_loss(policy, inputs), policy)
    for size in (3, 8):
        assert_equal(ours(method, policy, groups, size), trl)


def test_dapo_filters_overlong_answers_as_trl(policy: Any, reference: Any, tmp_path: Path) -> None:
    """TRL's mask_truncated_completions sets the mask of such an answer to 0."""
    groups = grpo_groups(reference)
    cut = [
        replace(group, completions=(replace(group.completions[0], truncated=True), *group.completions[1:]))
        for group in groups
    ]
    method = DAPO(DAPO.Config(group_size=4))
    trainer = grpo_trainer(policy, tmp_path, beta=0.0, loss_type="bnpo", epsilon_high=0.28)
    trainer.current_gradient_accumulation_steps = 1
    answers = [one for group in cut for one in group.completions]
    inputs = batch(answers) | {
        "advantages": torch.tensor([a for g in cut for a in method.advantages([c.reward for c in g.completions])]),
        "old_per_token_logps": pad_sequence([torch.tensor(one.behaviour) for one in answers], batch_first=True),
    }
    kept = torch.tensor([not one.truncated for one in answers])
    inputs["completion_mask"] = inputs["completion_mask"] * kept[:, None]
    assert_equal(ours(method, policy, cut, 3), theirs(trainer._compute_loss(policy, inputs), policy))


def rloo_trainer(policy: Any, folder: Path, **settings: Any) -> RLOOTrainer:
    policy.save_pretrained(folder / "model")
    policy.config._name_or_path = str(folder / "model")
    arguments = common(folder) | {"num_generations": 4, "per_device_train_batch_size": 8} | settings
    return RLOOTrainer(
        model=policy,
        reward_funcs=lambda completion_ids, **_: [float(len(set(ids)) % 3) for ids in completion_ids],
        args=RLOOConfig(max_completion_length=6, **arguments),
        train_dataset=Dataset.from_list(TEXT),
        processing_class=tokenizer(),
    )


def test_rloo(policy: Any, reference: Any, tmp_path: Path) -> None:
    groups = grpo_groups(reference)
    method = RLOO(RLOO.Config(group_size=4, beta=0.1))
    answers = [one for group in groups for one in group.completions]
    rewards = torch.tensor([[c.reward - method.penalty(c) for c in group.completions] for group in groups])
    leave_one_out = rewards - (rewards.sum(1, keepdim=True) - rewards) / 3
    inputs = batch(answers) | {
        "advantages": leave_one_out.flatten(),
        "old_logps": torch.tensor([sum(one.behaviour) for one in answers]),
    }
    trainer = rloo_trainer(policy, tmp_path, beta=0.1)
    trl = theirs(trainer._compute_loss(policy, inputs), policy)
    for size in (3, 8):
        assert_equal(ours(method, policy, groups, size), trl)


def test_rloo_advantages(policy: Any, tmp_path: Path) -> None:
    """TRL samples, scores and takes its own KL penalty; our advantages of its completions equal its own."""
    trainer = rloo_trainer(policy, tmp_path, beta=0.1)
    torch.manual_seed(5)
    with torch.no_grad():  # away from the reference, which TRL loaded from the folder
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    policy.train()
    torch.manual_seed(0)
    made = trainer._generate_and_score_completions([{"prompt": "w5 w6 w7"}] * 4 + [{"prompt": "w8 w9"}] * 4)
    prompts = [(5, 6, 7)] * 4 + [(8, 9)] * 4
    answers = []
    for prompt, row, keep in zip(prompts, made["completion_ids"], made["completion_mask"], strict=True):
        tokens = tuple(row[keep.bool()].tolist())
        with torch.no_grad():
            now, before = (log_probs(m, prompt, tokens) for m in (policy, trainer.ref_model))
        reward = float(len(set(tokens)) % 3)
        answers.append(
            Completion("p", tokens, reward=reward, behaviour=tuple(now.tolist()), reference=tuple(before.tolist()))
        )
    method = RLOO(RLOO.Config(group_size=4, beta=0.1))
    samples = method.experience([Group("p", tuple(answers[:4])), Group("q", tuple(answers[4:]))])
    torch.testing.assert_close(torch.tensor([one.weight for one in samples]), made["advantages"], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ preferences


def preference_groups(network: Any, source: str = "base") -> list[Group]:
    return [
        Group(p, tuple(completion(network, p, t, r, source) for t, r in answers))
        for p, answers in (
            ("p", (((13, 14, END), 0.0), ((20, END), 1.0))),
            ("q", (((15, END), 1.0), ((16, 17, 18, END), 0.5))),
        )
    ]


@pytest.mark.parametrize("loss_type", ["ipo", "sigmoid"])
def test_ipo_and_online_dpo(policy: Any, reference: Any, tmp_path: Path, loss_type: str) -> None:
    groups = preference_groups(reference, "base" if loss_type == "ipo" else "policy")
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(beta=0.3, loss_type=[loss_type], **common(tmp_path)),
        train_dataset=Dataset.from_list([{"prompt": "w5", "chosen": " w6", "rejected": " w7"}]),
        processing_class=tokenizer(),
    )
    pairs = [(groups[0].completions[1], groups[0].completions[0]), groups[1].completions]
    trl = theirs(trainer._compute_loss(policy, pair_batch(pairs), return_outputs=False), policy)
    method = IPO(IPO.Config(beta=0.3)) if loss_type == "ipo" else OnlineDPO(OnlineDPO.Config(beta=0.3))
    for size in (2, 4):
        assert_equal(ours(method, policy, groups, size), trl)


def test_simpo(policy: Any, reference: Any) -> None:
    """TRL's CPO trainer with loss_type simpo: its log-probabilities and its loss, on the logits of one batch."""
    groups = preference_groups(reference)
    inputs = pair_batch([(groups[0].completions[1], groups[0].completions[0]), groups[1].completions])
    logits = policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    averages = CPOTrainer.get_batch_logps(logits, labels, average_log_prob=True, is_encoder_decoder=False)
    settings = SimpleNamespace(
        alpha=0.0,
        loss_type="simpo",
        beta=2.0,
        simpo_gamma=1.0,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    losses, _, _ = CPOTrainer.cpo_loss(settings, averages[:2], averages[2:])  # type: ignore[arg-type]
    trl = theirs(losses.mean(), policy)
    method = SimPO(SimPO.Config(beta=2.0, gamma_ratio=0.5))  # gamma = 0.5 * 2
    for size in (2, 4):
        assert_equal(ours(method, policy, groups, size), trl)


def test_kto(policy: Any, reference: Any, tmp_path: Path) -> None:
    """TRL estimates the reference point on the same answers, which were sampled by the policy as it is."""
    answers = []
    for group in preference_groups(reference, "policy"):
        for one in group.completions:
            with torch.no_grad():
                now = log_probs(policy, PROMPTS[one.prompt_id], one.tokens)
            answers.append(replace(one, behaviour=tuple(now.tolist())))
    if sum(sum(one.behaviour) - sum(one.reference) for one in answers) < 0:  # a reference point above 0 is the test
        policy, reference = reference, policy
        answers = [replace(one, behaviour=one.reference, reference=one.behaviour) for one in answers]
    groups = [Group(name, tuple(one for one in answers if one.prompt_id == name)) for name in ("p", "q")]
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.7}
    trainer = KTOTrainer(
        model=policy,
        ref_model=reference,
        args=KTOConfig(beta=0.3, loss_type="kto", per_device_train_batch_size=2, **weights, **common(tmp_path)),
        train_dataset=Dataset.from_list(
            [
                {"prompt": "w5", "completion": " w6", "label": True},
                {"prompt": "w8", "completion": " w9", "label": False},
            ]
        ),
        processing_class=tokenizer(),
    )
    ids, attention = padded([PROMPTS[one.prompt_id] + one.tokens for one in answers])
    scored, _ = padded([(0,) * len(PROMPTS[one.prompt_id]) + (1,) * len(one.tokens) for one in answers])
    rows = {"input_ids": ids, "attention_mask": attention, "completion_mask": scored}
    inputs = rows | {f"KL_{name}": value for name, value in rows.items()}
    inputs["label"] = torch.tensor([one.reward >= 0.75 for one in answers])
    trl = theirs(trainer._compute_loss(policy, inputs, return_outputs=False), policy)
    method = KTO(KTO.Config(beta=0.3, threshold=0.75, **weights))
    assert method.experience(groups)[0].extras["z"] > 0.01
    for size in (1, 3):
        assert_equal(ours(method, policy, groups, size), trl)


# ------------------------------------------------------------------ rejection sampling


def test_rft_is_sft_on_what_was_accepted(policy: Any, reference: Any, tmp_path: Path) -> None:
    groups = grpo_groups(reference)
    trainer = SFTTrainer(
        model=policy,
        args=SFTConfig(**common(tmp_path)),
        train_dataset=Dataset.from_list([{"prompt": "w5", "completion": " w6"}]),
        processing_class=tokenizer(),
    )
    accepted = [groups[0].completions[0], groups[1].completions[1]]  # rewards 1 and .9, the first of its equals
    ids, attention = padded([PROMPTS[one.prompt_id] + one.tokens for one in accepted])
    labels, _ = padded([(-100,) * len(PROMPTS[one.prompt_id]) + one.tokens for one in accepted])
    inputs = {"input_ids": ids, "attention_mask": attention, "labels": labels.masked_fill(attention == 0, -100)}
    trl = theirs(trainer.compute_loss(policy, inputs), policy)
    for size in (1, 2):
        assert_equal(ours(RFT(), policy, groups, size), trl)
