"""The further methods on a vocabulary of four tokens, against arithmetic written out from their papers' equations.

Ratios now/then: token 0 .5, token 1 1, token 2 1.5, token 3 1. Ratios then/reference: .8, .8, .8, 1.6.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from four_tokens import NOW, REF, THEN, at_logits, close, completion, group, k3, sigmoid, step
from pydantic import ValidationError

from algorithms.dapo import DAPO
from algorithms.dr_grpo import DrGRPO
from algorithms.gspo import GSPO
from algorithms.ipo import IPO
from algorithms.kto import KTO
from algorithms.online_dpo import OnlineDPO
from algorithms.reinforce_pp import ReinforcePP
from algorithms.rft import RFT
from algorithms.rloo import RLOO
from algorithms.simpo import SimPO
from algorithms.t_grpo import TGRPO
from harness.api import Completion, Group

TOKENS = [(0, 3), (2,)]
DEVIATION = math.sqrt(0.5) + 1e-4
"""Of the rewards 1 and 0 with Bessel's correction: sqrt(.25 + .25), and the constant that TRL and R1-V add."""


def cut_off(one: Completion) -> Completion:
    return replace(one, truncated=True)


# ------------------------------------------------------------------ RLOO


def test_rloo_leaves_one_out() -> None:
    method = RLOO(RLOO.Config(beta=0.0))
    samples = method.experience([group((1.0, 0.0, 0.8), [(0,), (1,), (2,)])])
    close([one.weight for one in samples], [1 - 0.4, 0 - 0.9, 0.8 - 0.5])


def test_rloo_weights_are_scaled_by_what_was_dropped() -> None:
    method = RLOO(RLOO.Config(beta=0.0))
    kept = method.experience([group((1.0, 0.0), [(0,), (1,)], "p"), group((0.7, 0.7), [(2,), (3,)], "q")])
    close([one.weight for one in kept], [1.0 / 2, -1.0 / 2])  # two of four answers
    # three rewards whose float sum over three is not one of them
    assert method.experience([group((0.1, 0.1, 0.1), [(0,), (1,), (2,)])]) == []


def test_rloo_loss_clips_the_whole_answers_ratio() -> None:
    method = RLOO(RLOO.Config(beta=0.0))
    # answer (0, 3): A = 1, ratio .5 * 1 = .5, min(.5, .8) = .5; answer (2,): A = -1, ratio 1.5, min(-1.5, -1.2) = -1.5
    loss, gradient, logged = step(method, method.experience([group((1.0, 0.0), TOKENS)]))
    close(loss, (-0.5 + 1.5) / 2)
    close(gradient.tolist(), at_logits([(0, -0.5 / 2), (3, -0.5 / 2), (2, 1.5 / 2)]))
    assert logged["clip_fraction"] == 0.0
    # rewards swapped: both are clipped and have no gradient
    loss, gradient, logged = step(method, method.experience([group((0.0, 1.0), TOKENS)]))
    close(loss, (0.8 - 1.2) / 2)
    close(gradient.tolist(), [0.0] * 4)
    assert logged["clip_fraction"] == 1.0


def test_rloo_penalises_drift_in_the_reward() -> None:
    method = RLOO(RLOO.Config(beta=0.5))
    samples = method.experience([group((1.0, 0.0), TOKENS)])
    first = 1.0 - 0.5 * (math.log(THEN[0] / REF[0]) + math.log(THEN[3] / REF[3]))
    second = 0.0 - 0.5 * math.log(THEN[2] / REF[2])
    close([one.weight for one in samples], [first - second, second - first])
    assert method.needs.reference and not RLOO(RLOO.Config(beta=0)).needs.reference


# ------------------------------------------------------------------ Dr. GRPO


def test_dr_grpo_divides_by_a_constant_and_not_by_the_deviation() -> None:
    method = DrGRPO(DrGRPO.Config(max_length=10))
    assert (method.needs.reference, method.needs.reduce) == (False, "sequence")
    loss, gradient, _ = step(method, method.experience([group((1.0, 0.0), TOKENS)]))
    # token 0: A = .5, ratio .5: .25; token 3: ratio 1: .5; token 2: A = -.5, ratio 1.5: -.75
    close(loss, ((-0.25 - 0.5) / 10 + 0.75 / 10) / 2)
    close(gradient.tolist(), at_logits([(0, -0.25 / 20), (3, -0.5 / 20), (2, 0.75 / 20)]))
    with pytest.raises(ValidationError):
        DrGRPO.Config(scale="group")


# ------------------------------------------------------------------ DAPO


def test_dapo_clips_higher_and_averages_over_tokens() -> None:
    method = DAPO()
    # swapped rewards: token 0 (ratio .5) has A < 0: clipped at .8; token 3 (1) goes through; token 2 (1.5): at 1.28
    loss, gradient, logged = step(method, method.experience([group((0.0, 1.0), TOKENS)]))
    advantage = 0.5 / DEVIATION
    close(loss, (0.8 * advantage + 1.0 * advantage - 1.28 * advantage) / 3)
    close(gradient.tolist(), at_logits([(3, advantage / 3)]))
    close(logged["clip_fraction"], (1 / 2 + 1) / 2)
    assert "kl" not in logged and not method.needs.reference


def test_dapo_asks_for_other_prompts_when_a_group_is_flat() -> None:
    method = DAPO()
    assert method.needs.resample_dropped and method.needs.reduce == "token"
    groups = [group((0.7, 0.7), TOKENS, "flat"), group((1.0, 0.0), TOKENS, "p")]
    samples = method.experience(groups)
    # the flat group is not counted at all: it is replaced, not averaged over
    assert [one.completion.prompt_id for one in samples] == ["p", "p"]
    close([one.weight for one in samples], [0.5 / DEVIATION, -0.5 / DEVIATION])
    assert [one.unit for one in samples] == [0, 1]


def test_dapo_leaves_out_what_was_cut_off() -> None:
    one, other = group((1.0, 0.0), TOKENS).completions
    cut = Group("p", (cut_off(one), other))
    (kept,) = DAPO().experience([cut])
    assert kept.completion.tokens == (2,)
    close(kept.weight, -0.5 / DEVIATION)  # the baseline is still that of both
    assert len(DAPO(DAPO.Config(overlong="keep")).experience([cut])) == 2
    assert DAPO().experience([Group("p", tuple(map(cut_off, (one, other))))]) == []


@pytest.mark.parametrize(("length", "cost"), [(1, 0.0), (6, 0.0), (7, -0.25), (9, -0.75), (10, -1.0), (12, -1.0)])
def test_dapo_soft_overlong_penalty(length: int, cost: float) -> None:
    """Equation 13 with L_max = 10 and L_cache = 4."""
    method = DAPO(DAPO.Config(overlong="penalty", max_length=10, margin=4))
    close(method.penalty(completion((0,) * length)), cost)
    assert DAPO().penalty(completion((0,) * length)) == 0.0


def test_dapo_judges_flatness_before_the_penalty() -> None:
    method = DAPO(DAPO.Config(overlong="penalty", max_length=2, margin=1))
    assert method.experience([group((0.5, 0.5), TOKENS)]) == []
    samples = method.experience([group((1.0, 0.0), TOKENS)])  # (0, 3) loses 1: both have 0 now, so no advantage
    close([one.weight for one in samples], [0.0, 0.0])


# ------------------------------------------------------------------ GSPO


def test_gspo_has_one_ratio_an_answer() -> None:
    method = GSPO(GSPO.Config(clip_low=0.3, clip_high=0.4))
    advantage, ratio = 0.5 / DEVIATION, math.sqrt(0.5 * 1.0)  # geometric mean of the ratios of tokens 0 and 3
    loss, gradient, logged = step(method, method.experience([group((1.0, 0.0), TOKENS)]))
    # (0, 3): A > 0, ratio .707; (2,): A < 0, ratio 1.5, min(-1.5, -1.4) is -1.5: neither is clipped
    close(loss, (-ratio * advantage + 1.5 * advantage) / 2)
    slope = ratio * advantage / 2 / 2  # by each of the answer's two tokens: half of the answer's
    close(gradient.tolist(), at_logits([(0, -slope), (3, -slope), (2, 1.5 * advantage / 2)]))
    assert logged["clip_fraction"] == 0.0
    loss, gradient, logged = step(method, method.experience([group((0.0, 1.0), TOKENS)]))
    # (0, 3): A < 0, max(-.707, -.7 * -1): -min(-.707, -.7) = .707, ratio above 1 - .3, goes through; (2,): clipped
    close(loss, (ratio * advantage - 1.4 * advantage) / 2)
    assert logged["clip_fraction"] == 0.5


def test_gspo_keeps_to_the_papers_range() -> None:
    method = GSPO()
    assert (method.config.clip_low, method.config.clip_high, method.config.beta) == (3e-4, 4e-4, 0.0)
    loss, _, logged = step(method, method.experience([group((0.0, 1.0), TOKENS)]))
    advantage = 0.5 / DEVIATION
    close(loss, ((1 - 3e-4) * advantage - (1 + 4e-4) * advantage) / 2)
    assert logged["clip_fraction"] == 1.0


def test_gspo_with_a_kl_term() -> None:
    method = GSPO(GSPO.Config(clip_low=0.3, clip_high=0.4, beta=0.1))
    loss, _, logged = step(method, method.experience([group((1.0, 0.0), TOKENS)]))
    advantage, kl = 0.5 / DEVIATION, [(k3(0) + k3(3)) / 2, k3(2)]
    close(loss, (-math.sqrt(0.5) * advantage + 1.5 * advantage + 0.1 * sum(kl)) / 2)
    close(logged["kl"], sum(kl) / 2)


# ------------------------------------------------------------------ T-GRPO


def contrasted(ordered: tuple[float, ...], shuffled: tuple[float, ...]) -> Group:
    others = [replace(completion((1,) * (i + 1), r), source="shuffled") for i, r in enumerate(shuffled)]
    return Group("p", (*group(ordered, [(0,) * (i + 1) for i in range(len(ordered))]).completions, *others))


@pytest.mark.parametrize(
    ("ordered", "shuffled", "rewards"),
    [
        ((1.0, 0.0, 0.05), (0.0, 0.0), (1.3, 0.0, 0.05)),  # order helps: right answers earn .3; .05 is not right
        ((1.0, 0.6, 0.0, 0.0), (0.5, 0.5), (1.3, 0.9, 0.0, 0.0)),  # mean .4 = .8 * .5: at the border it still helps
        ((1.0, 0.0, 0.0), (1.0, 0.0), (1.0, 0.0, 0.0)),  # .33 < .4: it does not
    ],
)
def test_t_grpo_pays_for_the_order_of_frames(
    ordered: tuple[float, ...], shuffled: tuple[float, ...], rewards: tuple[float, ...]
) -> None:
    method = TGRPO(TGRPO.Config(group_size=3, shuffled=2, scale="none", beta=0.0))
    samples = method.experience([contrasted(ordered, shuffled)])
    assert all(one.completion.source == "policy" for one in samples)
    mean = sum(rewards) / len(rewards)
    close([one.weight for one in samples], [reward - mean for reward in rewards])
    assert (method.needs.rollouts, method.needs.shuffled) == (3, 2)


def test_t_grpo_judges_the_answer_and_not_its_form() -> None:
    def one(accuracy: float, form: float, source: str = "policy") -> Completion:
        parts = {"choice": accuracy, "format": form}
        return replace(completion((0,), accuracy + form), parts=parts, source=source)  # type: ignore[arg-type]

    rewarded = TGRPO().rewarded(Group("p", (one(1.0, 0.0), one(0.0, 1.0), one(0.0, 1.0, "shuffled"))))
    close([c.reward for c in rewarded.completions], [1.3, 1.0])


# ------------------------------------------------------------------ REINFORCE++


@pytest.mark.parametrize("baseline", ["none", "group"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_reinforce_pp(baseline: str, beta: float) -> None:
    method = ReinforcePP(ReinforcePP.Config(baseline=baseline, beta=beta, clip_low=0.6, clip_high=0.6))  # type: ignore[arg-type]
    rewards = {"p": (1.0, 0.0), "q": (3.0, 2.0)}
    tokens = {"p": [(0, 3), (2,)], "q": [(1,), (3, 2, 0)]}
    groups = [group(rewards[name], tokens[name], name) for name in "pq"]
    samples = method.experience(groups)
    # The definition: reward (less its group's mean), less beta times the KL from this token to the end.
    raw = []
    for name in "pq":
        mean = sum(rewards[name]) / 2 if baseline == "group" else 0.0
        for reward, answer in zip(rewards[name], tokens[name], strict=True):
            drifts = [math.log(THEN[token] / REF[token]) for token in answer]
            raw.append([reward - mean - beta * sum(drifts[t:]) for t in range(len(answer))])
    flat = [value for row in raw for value in row]
    mean, spread = sum(flat) / 7, math.sqrt(sum((v - sum(flat) / 7) ** 2 for v in flat) / 7) + 1e-8
    answers = [answer for name in "pq" for answer in tokens[name]]
    losses, slopes = [], []
    for answer, row in zip(answers, raw, strict=True):
        terms = [(value - mean) / spread * NOW[t] / THEN[t] for t, value in zip(answer, row, strict=True)]
        losses.append(-sum(terms) / len(terms))
        slopes += [(t, -term / len(terms) / 4) for t, term in zip(answer, terms, strict=True)]
    loss, gradient, logged = step(method, samples)  # ratios are .5, 1 and 1.5: the wide range clips none
    close(loss, sum(losses) / 4)
    close(gradient.tolist(), at_logits(slopes))
    assert logged["clip_fraction"] == 0.0
    assert method.needs.reference == (beta > 0)


def test_reinforce_pp_without_contrast_does_nothing() -> None:
    method = ReinforcePP(ReinforcePP.Config(beta=0.0))
    loss, gradient, _ = step(method, method.experience([group((0.5, 0.5), TOKENS)]))
    close([loss, *gradient.tolist()], [0.0] * 5)
    assert method.experience([]) == []


# ------------------------------------------------------------------ KTO


def test_kto() -> None:
    method = KTO(KTO.Config(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0))
    groups = [group((1.0, 0.2), [(3, 3), (0,)], "p"), group((0.5, 0.0), [(2,), (1, 1)], "q")]
    samples = method.experience(groups)
    assert [one.weight for one in samples] == [2.0, -3.0, 2.0, -3.0]
    drift = (2 * math.log(0.4 / 0.25) + 4 * math.log(0.2 / 0.25)) / 4  # sampled against reference, over four answers
    assert drift > 0
    close([one.extras["z"] for one in samples], [drift] * 4)

    def value(sign: int, *tokens: int) -> float:
        return sigmoid(0.5 * sign * (sum(math.log(NOW[t] / REF[t]) for t in tokens) - drift))

    values = [value(1, 3, 3), value(-1, 0), value(1, 2), value(-1, 1, 1)]
    loss, gradient, logged = step(method, samples)
    close(loss, (2 * (1 - values[0]) + 3 * (1 - values[1]) + 2 * (1 - values[2]) + 3 * (1 - values[3])) / 4)
    push = [w * 0.5 * v * (1 - v) / 4 for w, v in zip((-2, 3, -2, 3), values, strict=True)]
    pairs = [(3, 2 * push[0]), (0, push[1]), (2, push[2]), (1, 2 * push[3])]
    close(gradient.tolist(), at_logits(pairs))
    close([logged["kl"], logged["desirable"]], [drift, 0.5])


def test_kto_reference_point_is_never_negative() -> None:
    samples = KTO().experience([group((1.0, 0.0), [(0,), (1,)])])  # less likely than under the reference
    assert [one.extras["z"] for one in samples] == [0.0, 0.0]


# ------------------------------------------------------------------ preference pairs

PAIRS = [
    group((0.2, 1.0, 0.0), [(1,), (3, 3), (0, 2)], "p", "base"),
    group((1.0, 0.5, 0.0), [(0,), (1,), (2, 3)], "q", "base"),
    group((1.0, 1.0, 1.0), [(0,), (1,), (2,)], "tie", "base"),
]
"""Best against worst: (3, 3) over (0, 2), and (0,) over (2, 3)."""


def log_now(*tokens: int) -> float:
    return sum(math.log(NOW[token]) for token in tokens)


def log_ratio(*tokens: int) -> float:
    return sum(math.log(NOW[token] / REF[token]) for token in tokens)


@pytest.mark.parametrize("average", ["token", "sum"])
def test_ipo(average: str) -> None:
    method = IPO(IPO.Config(beta=0.4, average=average))  # type: ignore[arg-type]
    by = (lambda *tokens: len(tokens)) if average == "token" else (lambda *tokens: 1)
    gaps = [
        log_ratio(3, 3) / by(3, 3) - log_ratio(0, 2) / by(0, 2),
        log_ratio(0) / by(0) - log_ratio(2, 3) / by(2, 3),
    ]
    loss, gradient, logged = step(method, method.experience(PAIRS))
    close(loss, sum((gap - 1 / 0.8) ** 2 for gap in gaps) / 2)
    pull = [gap - 1 / 0.8 for gap in gaps]  # 2 * (gap - target) / 2 pairs
    half = 1 / by(0, 1)
    slopes = [(3, 2 * half * pull[0]), (0, -half * pull[0]), (2, -half * pull[0])]
    slopes += [(0, pull[1]), (2, -half * pull[1]), (3, -half * pull[1])]
    close(gradient.tolist(), at_logits(slopes))
    close(logged["margin"], sum(gaps) / 2)


def test_simpo() -> None:
    method = SimPO(SimPO.Config(beta=2.5, gamma_ratio=0.3))
    gaps = [log_now(3, 3) / 2 - log_now(0, 2) / 2, log_now(0) - log_now(2, 3) / 2]
    margins = [2.5 * gap - 0.75 for gap in gaps]
    loss, gradient, logged = step(method, method.experience(PAIRS))
    close(loss, -sum(math.log(sigmoid(margin)) for margin in margins) / 2)
    push = [2.5 * sigmoid(-margin) / 2 for margin in margins]
    slopes = [(3, -push[0]), (0, push[0] / 2), (2, push[0] / 2), (0, -push[1]), (2, push[1] / 2), (3, push[1] / 2)]
    close(gradient.tolist(), at_logits(slopes))
    assert logged["accuracy"] == 0.5
    assert not method.needs.reference and method.needs.rollouts == 8


def test_online_dpo_pairs_neighbours() -> None:
    method = OnlineDPO(OnlineDPO.Config(beta=0.5, rollouts=4))
    groups = [
        group((0.0, 1.0, 0.7, 0.2), [(0,), (3, 3), (1,), (2, 3)], "p"),
        group((1.0, 1.0, 0.0, 0.1), [(0,), (1,), (2,), (3,)], "q"),
    ]
    samples = method.experience(groups)
    assert [(one.completion.tokens, one.weight, one.unit) for one in samples] == [
        ((3, 3), 1.0, 0),
        ((0,), -1.0, 0),
        ((1,), 1.0, 1),
        ((2, 3), -1.0, 1),
        ((3,), 1.0, 2),  # the first pair of q is a tie
        ((2,), -1.0, 2),
    ]
    margins = [
        0.5 * (log_ratio(*w) - log_ratio(*rejected)) for w, rejected in (((3, 3), (0,)), ((1,), (2, 3)), ((3,), (2,)))
    ]
    close(step(method, samples)[0], -sum(math.log(sigmoid(margin)) for margin in margins) / 3)
    assert OnlineDPO().needs.rollouts == 2
    extremes = OnlineDPO(OnlineDPO.Config(pairs="ranked", rollouts=4)).experience(groups)
    assert [one.completion.tokens for one in extremes] == [(3, 3), (0,), (0,), (2,)]
    with pytest.raises(ValidationError):
        OnlineDPO.Config(rollouts=3)


# ------------------------------------------------------------------ rejection sampling


def test_rft_imitates_the_best() -> None:
    groups = [
        group((0.2, 0.9, 0.9), [(1,), (3, 3), (0, 2)], "p"),
        group((0.4, 0.1), [(0,), (1,)], "all below the threshold"),
        group((1.0, 0.6), [(0,), (2, 3)], "q"),
    ]
    method = RFT()
    samples = method.experience(groups)
    assert [one.completion.tokens for one in samples] == [(3, 3), (0,)]
    loss, gradient, _ = step(method, samples)
    close(loss, -log_now(3, 3, 0) / 3)
    close(gradient.tolist(), at_logits([(3, -2 / 3), (0, -1 / 3)]))
    by_answer = RFT(RFT.Config(average="sequence"))
    close(step(by_answer, by_answer.experience(groups))[0], -(log_now(3, 3) / 2 + log_now(0)) / 2)


def test_rft_keeps_all_different_good_answers() -> None:
    method = RFT(RFT.Config(keep="all", threshold=0.6))
    groups = [group((0.6, 0.9, 0.9, 0.5), [(1,), (3, 3), (1,), (2,)])]
    assert [one.completion.tokens for one in method.experience(groups)] == [(1,), (3, 3)]
