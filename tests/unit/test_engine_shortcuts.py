"""What the shared engine leaves out: the last layer's work on trunk tokens, and the patch convolution."""

import copy

import pytest
import torch
from engine_kit import FAMILIES, stock_log_probs, tiny_model, tiny_policy, tiny_prompt, tiny_video

from harness.models import shortcuts

COMPLETIONS = [[4, 5, 6, 1], [7], [8, 9, 1]]


def rows_through(module, run):
    """Token rows a module was called on."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    run()
    handle.remove()
    return sum(seen)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_runs_on_the_suffix_alone(family):
    policy = tiny_policy(tiny_model(family))
    prompt = tiny_prompt(tiny_video((2, 4, 4)), [3, 4], family)
    layers = policy.language_model.layers
    run = lambda: policy.log_probs([prompt] * 3, COMPLETIONS)  # noqa: E731
    suffix = 1 + sum(len(one) - 1 for one in COMPLETIONS)  # the last prompt token, and completions but their last
    assert rows_through(layers[-1].mlp, run) == suffix
    assert rows_through(layers[-2].mlp, run) == len(prompt.input_ids) - 1 + suffix


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_as_a_matrix_product_equal_the_convolution(family):
    stock, fast = tiny_model(family).double(), tiny_model(family).double()
    shortcuts.install(fast)
    pixels = tiny_video((2, 4, 4)).pixel_values.double()
    expected = stock.model.visual.patch_embed(pixels)
    torch.testing.assert_close(fast.model.visual.patch_embed(pixels), expected, rtol=1e-12, atol=1e-12)


def test_the_model_keeps_its_names_and_its_ordinary_calls():
    stock, fast = tiny_model(), tiny_model()
    shortcuts.install(fast)
    shortcuts.install(fast)  # twice is once
    assert [type(module).__name__ for module in fast.modules()] == [type(module).__name__ for module in stock.modules()]
    assert list(fast.state_dict()) == list(stock.state_dict())
    prompt = tiny_prompt(tiny_video((2, 4, 4)), [3, 4])
    with torch.no_grad():
        values = [stock_log_probs(model, prompt, [4, 5, 1]) for model in (stock, fast)]
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-6)


def test_a_copy_computes_with_its_own_weights():
    policy = tiny_policy(tiny_model())
    frozen = policy.reference()
    prompt = tiny_prompt(tiny_video((2, 4, 4)), [3, 4])
    with torch.no_grad():
        before = frozen.log_probs([prompt], [[4, 5, 1]])[0]
        for parameter in policy.language_model.layers[-1].parameters():
            parameter.add_(1.0)
        assert frozen.log_probs([prompt], [[4, 5, 1]])[0].equal(before)
        assert not policy.log_probs([prompt], [[4, 5, 1]])[0].allclose(before)
        assert copy.deepcopy(policy.model).state_dict().keys() == policy.model.state_dict().keys()
