"""SFT, DPO and GRPO on a vocabulary of four tokens, against arithmetic done here with ``math`` alone.

Expected values are written from the equations, never from the package's code.
"""

from __future__ import annotations

import math

import pytest
from four_tokens import NOW, REF, at_logits, close, completion, group, k3, sigmoid, step
from pydantic import ValidationError

from algorithms.dpo import DPO
from algorithms.grpo import GRPO
from algorithms.online_dpo import OnlineDPO
from algorithms.sft import SFT
from harness.api import Completion, Group, UserError

# ------------------------------------------------------------------ SFT

ANSWERS = [(0, 3), (1,), (2, 2, 1)]


def golds() -> list[Group]:
    return [Group(f"p{i}", (completion(t, 1.0, "gold", f"p{i}"), completion((3,), 1.0))) for i, t in enumerate(ANSWERS)]


def test_sft_is_the_mean_over_tokens() -> None:
    method = SFT()
    samples = method.experience(golds())
    assert [sample.completion.tokens for sample in samples] == ANSWERS  # the sampled answers are not trained on
    loss, gradient, _ = step(method, samples)
    close(loss, -(math.log(0.1) + math.log(0.4) + 2 * math.log(0.2) + 2 * math.log(0.3)) / 6)
    close(gradient.tolist(), at_logits([(0, -1 / 6), (3, -1 / 6), (1, -2 / 6), (2, -2 / 6)]))


def test_sft_by_sequence_is_the_mean_of_means() -> None:
    method = SFT(SFT.Config(average="sequence"))
    loss, gradient, _ = step(method, method.experience(golds()))
    means = [(math.log(0.1) + math.log(0.4)) / 2, math.log(0.2), (2 * math.log(0.3) + math.log(0.2)) / 3]
    close(loss, -sum(means) / 3)
    close(gradient.tolist(), at_logits([(0, -1 / 6), (3, -1 / 6), (1, -1 / 3), (2, -2 / 9), (1, -1 / 9)]))


# ------------------------------------------------------------------ GRPO


def test_grpo_advantages() -> None:
    # mean 0.5; squared deviations .25 .25 0 0 sum to .5; Bessel: sqrt(.5 / 3)
    deviation = math.sqrt(0.5 / 3) + 1e-4
    samples = GRPO().experience([group((1.0, 0.0, 0.5, 0.5), [(0,), (1,), (2,), (3,)])])
    close([sample.weight for sample in samples], [0.5 / deviation, -0.5 / deviation, 0.0, 0.0])
    plain = GRPO(GRPO.Config(scale="none"))
    close(plain.advantages((1.0, 0.0, 0.5, 0.5)), [0.5, -0.5, 0.0, 0.0])
    close(GRPO(GRPO.Config(loss_type="dr_grpo")).advantages((1.0, 0.0)), [0.5, -0.5])
    asked = GRPO(GRPO.Config(loss_type="dr_grpo", scale="group"))
    close(asked.advantages((1.0, 0.0)), [0.5 / (math.sqrt(0.5) + 1e-4), -0.5 / (math.sqrt(0.5) + 1e-4)])


def test_grpo_advantages_are_taken_within_the_group() -> None:
    groups = [group((1.0, 0.0), [(0,), (1,)], "p"), group((9.0, 8.0), [(2,), (3,)], "q")]
    weights = [sample.weight for sample in GRPO(GRPO.Config(scale="none")).experience(groups)]
    close(weights, [0.5, -0.5, 0.5, -0.5])


TOKENS = [(0, 3), (2,)]
"""Rewards 1 and 0, unscaled: advantages +.5 and -.5. Ratios now/then: token 0 .5, token 2 1.5, token 3 1."""


def hand_made(beta: float) -> tuple[list[list[float]], list[list[tuple[int, float]]]]:
    """The loss of each token by answer, and (token, derivative by its log-probability)."""
    # token 0: A=+.5, ratio .5: min(.25, .8*.5) = .25, not clipped, derivative -.25
    # token 3: A=+.5, ratio 1: .5, derivative -.5
    # token 2: A=-.5, ratio 1.5: min(-.75, 1.2*-.5) = -.75, not clipped (pessimistic), derivative +.75
    plain = [[(0, -0.25), (3, -0.5)], [(2, 0.75)]]
    losses = [[value + beta * k3(token) for token, value in row] for row in plain]
    slopes = [[(token, value + beta * (1 - REF[token] / NOW[token])) for token, value in row] for row in plain]
    return losses, slopes


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", ["sequence", "token", "dr_grpo"])
def test_grpo_loss_and_gradient(loss_type: str, beta: float) -> None:
    method = GRPO(GRPO.Config(beta=beta, loss_type=loss_type, scale="none", max_length=10))  # type: ignore[arg-type]
    loss, gradient, logged = step(method, method.experience([group((1.0, 0.0), TOKENS)]))
    losses, slopes = hand_made(beta)
    divisors = {"sequence": (2 * 2, 2 * 1), "token": (3, 3), "dr_grpo": (2 * 10, 2 * 10)}[loss_type]
    close(loss, sum(sum(row) / by for row, by in zip(losses, divisors, strict=True)))
    weighted = [(t, c / by) for row, by in zip(slopes, divisors, strict=True) for t, c in row]
    close(gradient.tolist(), at_logits(weighted))
    assert logged["clip_fraction"] == 0.0
    if beta:
        close(logged["kl"], ((k3(0) + k3(3)) / 2 + k3(2)) / 2)
    else:
        assert "kl" not in logged


def test_grpo_clips_what_would_go_too_far() -> None:
    # rewards swapped: token 0 (ratio .5) has A=-.5: min(-.25, .8*-.5) = -.4, clipped; token 2 (1.5) has A=+.5:
    # min(.75, 1.2*.5) = .6, clipped; token 3 (1) has A=-.5 and goes through. Clipped tokens have no gradient.
    method = GRPO(GRPO.Config(beta=0.0, scale="none"))
    loss, gradient, logged = step(method, method.experience([group((0.0, 1.0), TOKENS)]))
    close(loss, ((0.4 + 0.5) / 2 - 0.6) / 2)
    close(gradient.tolist(), at_logits([(3, 0.5 / 4)]))
    close(logged["clip_fraction"], (1 / 2 + 1) / 2)
    wider = GRPO(GRPO.Config(beta=0.0, scale="none", clip_low=0.6, clip_high=0.28))
    loss, _, logged = step(wider, wider.experience([group((0.0, 1.0), TOKENS)]))
    close(loss, ((0.25 + 0.5) / 2 - 1.28 * 0.5) / 2)
    close(logged["clip_fraction"], 1 / 2)


def test_grpo_groups_without_contrast() -> None:
    """With a KL term they stay with advantage 0; without one they are dropped, and the step is the same as if kept."""
    groups = [group((1.0, 0.0), TOKENS, "p"), group((0.7, 0.7, 0.7), [(1, 1), (2,), (3,)], "q")]
    kept = GRPO(GRPO.Config(beta=0.1, scale="none")).experience(groups)
    close([sample.weight for sample in kept], [0.5, -0.5, 0.0, 0.0, 0.0])
    method = GRPO(GRPO.Config(beta=0.0, scale="none"))
    dropped = method.experience(groups)
    assert [sample.completion.prompt_id for sample in dropped] == ["p", "p"]
    loss, gradient, _ = step(method, dropped)
    loss_kept, gradient_kept, _ = step(method, kept)
    close(loss, loss_kept)
    close(gradient.tolist(), gradient_kept.tolist())
    close(loss, ((-0.25 - 0.5) / 2 + 0.75) / 5)
    by_token = GRPO(GRPO.Config(beta=0.0, scale="none", loss_type="token"))
    close(step(by_token, by_token.experience(groups))[0], (-0.25 - 0.5 + 0.75) / 7)
    assert method.experience(groups[1:]) == [] and method.experience([]) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rewards_must_be_finite(bad: float) -> None:
    for method, source in ((GRPO(), "policy"), (DPO(), "base")):
        with pytest.raises(UserError, match=r"prompt scene-3: .* reward"):
            method.experience([group((1.0, bad), [(0,), (1,)], "scene-3", source)])  # type: ignore[arg-type]


def test_grpo_beta_decides_about_the_reference() -> None:
    assert GRPO().config.beta == 1e-4 and GRPO().needs.reference
    assert not GRPO(GRPO.Config(beta=0)).needs.reference
    with pytest.raises(ValidationError):
        GRPO.Config(beta=-0.1)


# ------------------------------------------------------------------ DPO


def test_dpo_loss_and_gradient() -> None:
    method = DPO(DPO.Config(beta=0.5, rollouts=3))
    groups = [
        group((0.2, 1.0, 0.0), [(1,), (3, 3), (0, 2)], "p", "base"),
        group((1.0, 0.5, 0.0), [(0,), (1,), (2, 3)], "q", "base"),
        group((1.0, 1.0, 1.0), [(0,), (1,), (2,)], "tie", "base"),
    ]
    samples = method.experience(groups)
    assert [(one.completion.tokens, one.weight, one.unit) for one in samples] == [
        ((3, 3), 1.0, 0),
        ((0, 2), -1.0, 0),
        ((0,), 1.0, 1),
        ((2, 3), -1.0, 1),
    ]
    loss, gradient, logged = step(method, samples)

    def ratio(*tokens: int) -> float:
        return sum(math.log(NOW[token] / REF[token]) for token in tokens)

    first, second = 0.5 * (ratio(3, 3) - ratio(0, 2)), 0.5 * (ratio(0) - ratio(2, 3))
    close(loss, -(math.log(sigmoid(first)) + math.log(sigmoid(second))) / 2)
    push, pull = 0.5 * sigmoid(-first) / 2, 0.5 * sigmoid(-second) / 2  # -d loss / d (h_w - h_l) of each pair
    pairs = [(3, -2 * push), (0, push), (2, push), (0, -pull), (2, pull), (3, pull)]
    close(gradient.tolist(), at_logits(pairs))
    close(logged["margin"], (first + second) / 2)
    assert first > 0 > second and logged["accuracy"] == 0.5


def test_dpo_starts_at_log_two() -> None:
    """Where policy and reference agree the loss is log 2 whatever beta."""
    same = [Completion("p", (t,), reward=1.0 - t, source="base", reference=(math.log(NOW[t]),)) for t in (0, 1)]
    method = DPO(DPO.Config(beta=0.3))
    close(step(method, method.experience([Group("p", tuple(same))]))[0], math.log(2))


def test_dpo_pairs_by_construction() -> None:
    gold, corrupted = completion((0,), 0.3, "gold"), completion((1,), 0.3, "corrupted")
    sampled = (((2,), 0.1), ((3,), 0.9), ((2, 2), 0.3))
    worse, better, flat = (completion(tokens, reward, "base") for tokens, reward in sampled)

    def pairs(kind: str, *completions: Completion) -> list[tuple[int, ...]]:
        method = DPO(DPO.Config(pairs=kind))  # type: ignore[arg-type]
        return [sample.completion.tokens for sample in method.experience([Group("p", completions)])]

    assert pairs("corrupted", gold, corrupted) == [(0,), (1,)]  # whatever their rewards
    assert pairs("gold_vs_worst", better, worse, gold) == [(0,), (2,)]
    assert pairs("gold_vs_worst", better, flat, gold) == []  # no sampled answer is worse than gold
    assert pairs("ranked", worse, gold, better, flat) == [(3,), (2,)]  # gold takes no part
    assert pairs("ranked", flat) == []
    assert pairs("ranked", worse, better, completion((1,), 1.0)) == [(3,), (2,)]  # nothing of the policy in training


def test_dpo_needs_follow_the_pairs() -> None:
    ranked, corrupted, gold = (DPO(DPO.Config(pairs=kind)).needs for kind in ("ranked", "corrupted", "gold_vs_worst"))
    assert (ranked.rollouts, ranked.gold, ranked.corrupted) == (8, False, 0)
    assert (corrupted.rollouts, corrupted.gold, corrupted.corrupted) == (0, True, 1)
    assert (gold.rollouts, gold.gold, gold.corrupted) == (8, True, 0)
    assert all(needs.reference and needs.reduce == "unit" for needs in (ranked, corrupted, gold))
    assert (ranked.offline, corrupted.offline, gold.offline, OnlineDPO().needs.offline) == (True, False, True, False)
