"""Losses and gradients equal TRL 1.16's own trainers on the same text batch of a tiny random Qwen2.

TRL's settings: GRPO with bias-corrected KL off (its default multiplies the KL term by the ratio); DPO sigmoid with
reverse KL; SFT with its token mean. Everything else is TRL's default. Nothing is downloaded.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

pytest.importorskip("trl", minversion="1.16.0")
pytest.importorskip("datasets")

from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from algorithms.sft import SFT
from harness.api import Algorithm, Completion, Group
from harness.train.reduction import denominator, make_batch, micro_batches, reduce_loss

PAD, END, WORDS = 0, 1, 30
PROMPTS = {"p": (5, 6, 7), "q": (8, 9, 10, 11, 12)}


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": PAD, "<end>": END} | {f"w{index}": index for index in range(2, WORDS)}
    plain = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    plain.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<end>")


def model(seed: int) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.5,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


@pytest.fixture
def policy() -> Qwen2ForCausalLM:
    return model(0)


@pytest.fixture
def reference(policy: Qwen2ForCausalLM) -> Qwen2ForCausalLM:
    other = copy.deepcopy(policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return other


def log_probs(network: torch.nn.Module, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Tensor:
    """Independent of both: one plain forward of one unpadded sequence."""
    logits = network(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]


def completion(
    network: Qwen2ForCausalLM, prompt: str, tokens: tuple[int, ...], reward: float, source: str = "policy"
) -> Completion:
    """A completion as the engine would hand it over: reference by ``network``, sampled a little off it."""
    with torch.no_grad():
        values = log_probs(network, PROMPTS[prompt], tokens)
    torch.manual_seed(len(tokens))
    nearby = values + 0.3 * torch.randn(len(tokens))
    behaviour = tuple(nearby.tolist()) if source == "policy" else ()
    return Completion(
        prompt,
        tokens,
        reward=reward,
        source=source,
        behaviour=behaviour,
        reference=tuple(values.tolist()),  # type: ignore[arg-type]
    )


def ours(method: Algorithm, network: Qwen2ForCausalLM, groups: list[Group], size: int) -> tuple[float, Tensor]:
    """Loss and flat gradient through this project's batches, in micro-batches."""
    network.zero_grad()
    samples = method.experience(groups)
    total, value = denominator(samples, method.needs), 0.0
    for part in micro_batches(samples, size):
        rows = [log_probs(network, PROMPTS[one.completion.prompt_id], one.completion.tokens) for one in part]
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).float()
        batch = make_batch(part, pad_sequence(rows, batch_first=True), mask, method.needs)
        loss = reduce_loss(method.loss(batch)[0], batch, method.needs, total)
        loss.backward()
        value += loss.item()
    return value, flat_gradient(network)


def flat_gradient(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def theirs(loss: Tensor, network: Qwen2ForCausalLM) -> tuple[float, Tensor]:
    network.zero_grad()
    loss.backward()
    return loss.item(), flat_gradient(network)


def assert_equal(mine: tuple[float, Tensor], trl: tuple[float, Tensor]) -> None:
    assert mine[0] == pytest.approx(trl[0], rel=2e-5)
    assert float(trl[1].abs().max()) > 1e-3
    torch.testing.assert_close(mine[1], trl[1], rtol=1e-3, atol=2e-6 * float(trl[1].abs().max()))


def padded(rows: list[tuple[int, ...]], left: bool = False) -> tuple[Tensor, Tensor]:
    side = "left" if left else "right"
    tensors = [torch.tensor(row) for row in rows]
    ids = pad_sequence(tensors, batch_first=True, padding_value=PAD, padding_side=side)
    ones = [torch.ones_like(row) for row in tensors]
    return ids, pad_sequence(ones, batch_first=True, padding_side=side)


def common(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


# ------------------------------------------------------------------ SFT and DPO


def test_sft(policy: Qwen2ForCausalLM, tmp_path: Path) -> None:
    golds = [completion(policy, "p", (13, 14, END), 1.0, "gold"), completion(policy, "q", (15, END), 1.0, "gold")]
    trainer = SFTTrainer(
        model=policy,
        args=SFTConfig(**common(tmp_path)),
        train_dataset=Dataset.from_list([{"prompt": "w5", "completion": " w6"}]),
        processing_class=tokenizer(),
    )
    ids, attention = padded([PROMPTS[one.prompt_id] + one.tokens for one in golds])
    labels, _ = padded([(-100,) * len(PROMPTS[one.prompt_id]) + one.tokens for one in golds])
    inputs = {"input_ids": ids, "attention_mask": attention, "labels": labels.masked_fill(attention == 0, -100)}
    trl = theirs(trainer.compute_loss(policy, inputs), policy)
    groups = [Group(one.prompt_id, (one,)) for one in golds]
    for size in (1, 2):
        assert_equal(ours(SFT(), policy, groups, size), trl)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo(policy: Qwen2ForCausalLM, reference: Qwen2ForCausalLM, tmp_path: Path, beta: float) -> None:
    groups = [
        Group(p, tuple(completion(reference, p, t, r, "base") for t, r in answers))
        for p, answers in (
            ("p", (((13, 14, END), 0.0), ((20, END), 1.0))),
            ("q", (((15, END), 1.0), ((16, 17, 18, END), 0.5))),
        )
    ]
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(beta=beta, **common(tmp_path)),
        train_dataset=Dataset.from_list([{"prompt": "w5", "chosen": " w6", "rejected": " w7"}]),
        processing_class=tokenizer(),
    )
    chosen_first = [
        groups[0].completions[1],
        groups[1].completions[0],
        *(g.completions[i] for g, i in zip(groups, (0, 1), strict=True)),
    ]
    ids, attention = padded([PROMPTS[one.prompt_id] + one.tokens for one in chosen_first])
    scored, _ = padded([(0,) * len(PROMPTS[one.prompt_id]) + (1,) * len(one.tokens) for one in chosen_first])
    inputs = {"input_ids": ids, "attention_mask": attention, "completion_mask": scored}
    trl = theirs(trainer._compute_loss(policy, inputs, return_outputs=False), policy)
    for size in (2, 4):
        assert_equal(ours(DPO(DPO.Config(beta=beta)), policy, groups, size), trl)


# ------------------------------------------------------------------ GRPO


def grpo_trainer(policy: Qwen2ForCausalLM, folder: Path, **settings: Any) -> GRPOTrainer:
    policy.save_pretrained(folder / "model")
    policy.config._name_or_path = str(folder / "model")  # where TRL builds its reference model from
    arguments = common(folder) | {"num_generations": 4, "per_device_train_batch_size": 8} | settings
    return GRPOTrainer(
        model=policy,
        reward_funcs=lambda completion_ids, **_: [float(len(set(ids)) % 3) for ids in completion_ids],
        args=GRPOConfig(use_bias_correction_kl=False, max_completion_length=6, **arguments),
        train_dataset=Dataset.from_list([{"prompt": "w5 w6 w7"}, {"prompt": "w8 w9 w10 w11 w12"}] * 8),
        processing_class=tokenizer(),
    )


def grpo_groups(network: Qwen2ForCausalLM) -> list[Group]:
    answers = {
        "p": [((13, 14, END), 1.0), ((20, END), 0.0), ((21, 22, 23, 24, 25), 0.5), ((26, END), 0.0)],
        "q": [((15, END), 0.3), ((16, 17, 18, END), 0.9), ((19, 19, END), 0.9), ((2, END), 0.0)],
    }
    return [Group(p, tuple(completion(network, p, t, r) for t, r in rows)) for p, rows in answers.items()]


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(("loss_type", "trl_type"), [("sequence", "grpo"), ("token", "bnpo"), ("dr_grpo", "dr_grpo")])
def test_grpo(
    policy: Qwen2ForCausalLM, reference: Qwen2ForCausalLM, tmp_path: Path, loss_type: Any, trl_type: str, beta: float
) -> None:
    groups = grpo_groups(reference)
    method = GRPO(GRPO.Config(beta=beta, loss_type=loss_type, group_size=4, scale="group", max_length=6))
    trainer = grpo_trainer(policy, tmp_path, loss_type=trl_type, beta=beta)
    trainer.current_gradient_accumulation_steps = 1
    answers = [one for group in groups for one in group.completions]
    prompt_ids, prompt_mask = padded([PROMPTS[one.prompt_id] for one in answers], left=True)
    ids, mask = padded([one.tokens for one in answers])
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor(
            [a for group in groups for a in method.advantages([c.reward for c in group.completions])]
        ),
        "old_per_token_logps": pad_sequence([torch.tensor(one.behaviour) for one in answers], batch_first=True),
        "ref_per_token_logps": pad_sequence([torch.tensor(one.reference) for one in answers], batch_first=True),
    }
    trl = theirs(trainer._compute_loss(policy, inputs), policy)
    for size in (3, 8):
        assert_equal(ours(method, policy, groups, size), trl)


@pytest.mark.parametrize("scale", ["group", "none"])
def test_grpo_advantages(policy: Qwen2ForCausalLM, tmp_path: Path, scale: Any) -> None:
    """TRL samples and scores; our advantages of its completions equal its own."""
    trainer = grpo_trainer(policy, tmp_path, beta=0.04, scale_rewards=scale)
    policy.train()
    torch.manual_seed(0)
    made = trainer._generate_and_score_completions([{"prompt": "w5 w6 w7"}] * 4 + [{"prompt": "w8 w9"}] * 4)
    rows = [
        row[keep.bool()].tolist() for row, keep in zip(made["completion_ids"], made["completion_mask"], strict=True)
    ]
    answers = [Completion("p", tuple(row), reward=float(len(set(row)) % 3)) for row in rows]
    assert len({one.reward for one in answers[:4]}) > 1 and len({one.reward for one in answers[4:]}) > 1
    method = GRPO(GRPO.Config(group_size=4, scale=scale))
    samples = method.experience([Group("p", tuple(answers[:4])), Group("q", tuple(answers[4:]))])
    assert [one.weight for one in samples] == pytest.approx(made["advantages"].tolist(), rel=1e-5)
