"""A run's check of its engine: two short completions, computed with and without the shared prefix."""

from __future__ import annotations

import copy
import logging

import torch
from torch.nn.utils.rnn import pad_sequence

from harness.data.encode import EncodedPrompt
from harness.engine.policy import Policy
from harness.engine.sampler import TransformersSampler
from harness.errors import UserError

TOLERANCE = {"fp32": 1e-3, "bf16": 0.15}
"""Mean difference of log-probabilities that rounding explains; a wrong mask or position gives several tenths."""


@torch.no_grad()
def check_engine(policy: Policy, prompt: EncodedPrompt) -> float:
    """Compare the shared engine's sampling and log-probabilities with the naive engine's.

    A run does not go on with the other engine: the base model and finished cells have answered with this one.

    It checks the engine's own prefill and decoding, whatever sampler the study names. It is not counted in the policy's
    passes and uses no global random state.

    Returns:
        The mean absolute difference, the larger one of sampling and log-probabilities.

    Raises:
        UserError: They differ by more than rounding.
    """
    if policy.engine == "naive":
        return 0.0
    shared = policy.uncounted()
    naive = copy.copy(shared)
    naive.engine = "naive"
    completions = TransformersSampler(shared, 2).sample([prompt], 2, temperature=1.0, max_new_tokens=4, seed=0)[0]
    tokens = [one.tokens for one in completions]
    expected, mask = naive.log_probs([prompt] * 2, tokens)
    computed, _ = shared.log_probs([prompt] * 2, tokens)
    sampled = pad_sequence([torch.tensor(one.log_probs) for one in completions], batch_first=True).to(expected)
    difference = max(float((one - expected).abs().sum() / mask.sum()) for one in (computed, sampled))
    if not difference <= TOLERANCE[policy.precision]:
        raise UserError(
            f"`model.engine` = shared: on this run's first prompt its log-probabilities are off by {difference:.2g}; "
            "use the naive engine for all cells (--engine naive)"
        )
    logging.getLogger(__name__).info("The shared engine equals the naive one within %.1g.", difference)
    return difference
