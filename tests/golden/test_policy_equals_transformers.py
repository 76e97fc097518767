"""Log-probabilities and sampling against plain transformers, which knows nothing of our code."""

import dataclasses

import pytest
import torch

from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.errors import UserError

COMPLETIONS = [[300, 301, 302], [95], [97, 98, 99, 90, 91], [40, 41], [60, 61], [55, 56], [212, 213, 214], [99], [70]]


@pytest.fixture(params=["shared", "naive"])
def policy(request, policy):
    return Policy(policy.model, policy.tokenizer, policy.device, policy.precision, engine=request.param)


def plain_log_probs(model, prompt, completion):
    """One row through the stock forward with pixels, as a user of transformers would write it."""
    ids = torch.cat([prompt.input_ids, torch.tensor(completion)])[None]
    kinds = torch.cat([prompt.mm_token_type_ids, torch.zeros(len(completion), dtype=torch.long)])[None]
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        pixel_values_videos=prompt.video.pixel_values,
        video_grid_thw=prompt.video.grid_thw,
    ).logits[0]
    start = len(prompt.input_ids) - 1
    rows = logits[start : start + len(completion)].log_softmax(-1)
    return rows.gather(-1, torch.tensor(completion)[:, None])[:, 0]


def first_logits(model, prompt):
    """Logits of the first completion token from the stock forward."""
    return model(
        input_ids=prompt.input_ids[None],
        mm_token_type_ids=prompt.mm_token_type_ids[None],
        pixel_values_videos=prompt.video.pixel_values,
        video_grid_thw=prompt.video.grid_thw,
    ).logits[0, -1]


def test_log_probs_of_a_ragged_batch_equal_the_stock_forward(policy, prompts):
    prompts = [prompts[index] for index in (0, 1, 0, 2, 1, 0, 5, 4, 0)]
    with torch.no_grad():
        values, mask = policy.log_probs(prompts, COMPLETIONS)
        for row, prompt, completion in zip(range(len(prompts)), prompts, COMPLETIONS, strict=True):
            expected = plain_log_probs(policy.model, prompt, completion)
            torch.testing.assert_close(values[row, : len(completion)], expected, atol=2e-5, rtol=1e-5)
            assert mask[row].sum() == len(completion)
            assert not values[row, len(completion) :].any()


def test_gradients_equal_the_stock_forward(policy, prompts):
    prompts = [prompts[0], prompts[1], prompts[0]]
    values, _ = policy.log_probs(prompts, COMPLETIONS[:3])
    values.sum().backward()
    ours = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    sum(plain_log_probs(policy.model, p, c).sum() for p, c in zip(prompts, COMPLETIONS[:3], strict=True)).backward()
    theirs = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= 1e-4 * theirs[name].norm() + 1e-6, name


def test_greedy_sampling_equals_generate(policy, prompts):
    sampler = TransformersSampler(policy, batch=4)
    ours = sampler.sample(prompts, 1, temperature=0.0, max_new_tokens=8, seed=0)
    for prompt, (answer,) in zip(prompts, ours, strict=True):
        ids = prompt.input_ids[None]
        with torch.no_grad():
            out = policy.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=prompt.mm_token_type_ids[None],
                pixel_values_videos=prompt.video.pixel_values,
                video_grid_thw=prompt.video.grid_thw,
                max_new_tokens=8,
                do_sample=False,
                suppress_tokens=list(policy.banned_tokens),
            )
        assert tuple(out[0, ids.shape[1] :].tolist()) == answer.tokens


def test_sampled_log_probs_are_those_of_the_policy(policy, prompts):
    answers = TransformersSampler(policy, batch=8).sample(prompts, 4, temperature=1.0, max_new_tokens=6, seed=3)
    for prompt, group in zip(prompts, answers, strict=True):
        with torch.no_grad():
            values, _ = policy.log_probs([prompt] * 4, [one.tokens for one in group])
        for row, one in zip(values, group, strict=True):
            torch.testing.assert_close(row[: len(one.tokens)], torch.tensor(one.log_probs), atol=5e-5, rtol=1e-5)
            assert not set(one.tokens) & set(policy.banned_tokens)
            assert one.truncated == (one.tokens[-1] not in policy.end_tokens)


def test_samples_depend_on_the_seed_and_not_on_the_batch(policy, prompts):
    def tokens(batch, seed):
        return [
            [one.tokens for one in group]
            for group in TransformersSampler(policy, batch).sample(
                prompts, 3, temperature=1.0, max_new_tokens=5, seed=seed
            )
        ]

    assert tokens(3, 1) == tokens(64, 1)
    assert tokens(64, 1) != tokens(64, 2)


def test_sampling_follows_the_softmax(policy, prompts):
    """A chi-square check of the first token of one prompt against the model's own distribution."""
    from scipy.stats import chisquare

    prompt = prompts[0]
    draws = TransformersSampler(policy, 2000).sample([prompt], 2000, temperature=1.0, max_new_tokens=1, seed=5)[0]
    with torch.no_grad():
        logits = first_logits(policy.model, prompt)
    size = len(logits)
    logits[list(policy.banned_tokens)] = -torch.inf
    expected = logits.double().softmax(0) * 2000
    observed = torch.bincount(torch.tensor([one.tokens[0] for one in draws]), minlength=size).double()
    common = expected >= 5
    cells = [*observed[common].tolist(), observed[~common].sum().item()]
    wanted = [*expected[common].tolist(), expected[~common].sum().item()]
    assert chisquare(cells, wanted).pvalue > 1e-3


def test_a_prompt_without_matching_features_is_refused(policy, prompts):
    video = dataclasses.replace(
        prompts[0].video,
        pixel_values=prompts[0].video.pixel_values[:32],
        grid_thw=torch.tensor([[2, 4, 4]]),
        digest="shorter",
    )
    broken = dataclasses.replace(prompts[0], video=video)
    with pytest.raises(UserError, match="video tokens"):
        policy.log_probs([broken], [[95]])


def test_a_video_token_is_never_sampled(policy, prompts):
    config = policy.base.config
    assert config.video_token_id in policy.banned_tokens
    assert config.image_token_id in policy.banned_tokens
    assert not set(policy.end_tokens) & set(policy.banned_tokens)


def test_temperature_divides_the_logits(policy, prompts):
    with torch.no_grad():
        hot = policy.log_probs(prompts[:1], [[95]], temperature=2.0)[0][0, 0]
        cold = first_logits(policy.model, prompts[0])
    torch.testing.assert_close(hot, (cold / 2).log_softmax(0)[95], atol=1e-4, rtol=1e-4)
