"""Faster layers with the same results: the last layer's work on prefix tokens left out, patches as a product, ..."""

import copy

import pytest
import torch
from engine_kit import FAMILIES, stock_log_probs, tiny_model, tiny_policy, tiny_prompt, tiny_video

from harness.config.study import ModelSection
from harness.engine import fast_layers
from harness.models import families
from harness.models.loading import with_lora

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
    fast_layers.install(fast)
    pixels = tiny_video((2, 4, 4)).pixel_values.double()
    expected = stock.model.visual.patch_embed(pixels)
    torch.testing.assert_close(fast.model.visual.patch_embed(pixels), expected, rtol=1e-12, atol=1e-12)


def test_the_model_keeps_its_names_and_its_ordinary_calls():
    stock, fast = tiny_model(), tiny_model()
    fast_layers.install(fast)
    fast_layers.install(fast)  # twice is once
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grid", [(2, 4, 4), (3, 4, 8), (1, 6, 4)])
def test_frames_in_one_call_equal_frames_one_by_one(family, grid):
    """Also Qwen2.5-VL's windows, whose sizes differ where they do not divide a frame."""
    stock, fast = tiny_model(family).double(), tiny_model(family).double()
    fast_layers.install(fast)
    video = tiny_video(grid, dtype=torch.float64)
    expected, got = (
        model.get_video_features(video.pixel_values, video.grid_thw, return_dict=True).pooler_output[0]
        for model in (stock, fast)
    )
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_tower_that_turns_complex_numbers_computes_the_same(family, monkeypatch):
    stock, fast = tiny_model(family), tiny_model(family)
    fast_layers.install(fast)
    video = tiny_video((3, 4, 8))
    turned, plain = [], torch.view_as_complex
    monkeypatch.setattr(torch, "view_as_complex", lambda of: turned.append(of.shape) or plain(of))
    with torch.no_grad():
        expected, got = (
            model.get_video_features(video.pixel_values, video.grid_thw, return_dict=True).pooler_output[0]
            for model in (stock, fast)
        )
    assert len(turned) == len(fast.model.visual.blocks)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_a_few_frames_at_a_time_give_the_features_of_all(family, trained, monkeypatch):
    """Deepstack levels too; five frames in parts of two."""
    model, video = tiny_model(family).double(), tiny_video((5, 4, 8), dtype=torch.float64)
    fast_layers.install(model)
    results = []
    for patches in (2**30, 2 * 4 * 8):
        monkeypatch.setattr(families, "PATCHES_AT_ONCE", patches)
        passes = rows_of_passes(model.model.visual)
        model.zero_grad()
        with torch.set_grad_enabled(trained):
            features = families.encode_video(model, video, torch.device("cpu"))
            if trained:
                features.square().sum().backward()
        results.append([features, *(weight.grad for weight in model.model.visual.parameters() if trained)])
    assert passes == [64, 64, 32]
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def rows_of_passes(tower):
    """Patches of each pass of a tower from now on."""
    seen = []
    tower.register_forward_pre_hook(
        lambda _, inputs, options: seen.append(len((*inputs, *options.values())[0])), with_kwargs=True
    )
    return seen


def test_the_frames_sizes_are_asked_once_for_all_layers(monkeypatch):
    model = tiny_model()
    fast_layers.install(model)
    asked = []
    stock = torch.Tensor.diff
    monkeypatch.setattr(torch.Tensor, "diff", lambda self, *rest: asked.append(1) or stock(self, *rest))
    video = tiny_video((2, 4, 4))
    model.get_video_features(video.pixel_values, video.grid_thw, return_dict=True)
    assert len(model.model.visual.blocks) == 2
    assert len(asked) == 1


def test_the_towers_activation_folded_into_its_products_computes_the_same():
    """Values and gradients; Qwen2-VL alone has that activation."""
    stock, fast = tiny_model().double(), tiny_model().double()
    fast_layers.install(fast)
    video = tiny_video((2, 4, 6), dtype=torch.float64)
    results = []
    for model in (stock, fast):
        with torch.no_grad():
            plain = model.get_video_features(video.pixel_values, video.grid_thw, return_dict=True).pooler_output[0]
        kept = model.get_video_features(video.pixel_values, video.grid_thw, return_dict=True).pooler_output[0]
        kept.square().sum().backward()
        layers = [block.mlp for block in model.model.visual.blocks]
        gradients = [weight.grad for mlp in layers for weight in mlp.parameters()]
        results.append([plain, kept, *gradients])
    assert all(isinstance(block.mlp, fast_layers.FoldedQuickGELU) for block in fast.model.visual.blocks)
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    for family in set(FAMILIES) - {"qwen2_vl"}:
        other = tiny_model(family)
        fast_layers.install(other)
        assert not any(isinstance(module, fast_layers.FoldedQuickGELU) for module in other.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_of_one_kernel_equal_transformers(family):
    stock, fast = tiny_model(family), tiny_model(family)
    fast_layers.install(fast)
    hidden = torch.randn(3, 7, 32) * 3
    pairs = [
        (a, b) for a, b in zip(stock.modules(), fast.modules(), strict=True) if isinstance(b, fast_layers.FusedRMSNorm)
    ]
    assert len(pairs) >= 2 * 3 + 1
    for plain, one in pairs:
        size = plain.weight.shape[0]
        torch.testing.assert_close(one(hidden[..., :size]), plain(hidden[..., :size]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dropout", "dtype"), [(0.0, torch.float32), (0.0, torch.bfloat16), (0.5, torch.float32)])
def test_fused_adapters_compute_what_peft_computes(dropout, dtype):
    """Values and gradients; with dropout peft's own code runs, and with adapters off the base alone."""
    section = ModelSection(tuning="lora", lora_rank=4, lora_dropout=dropout)
    models = []
    for _ in range(2):
        model = with_lora(tiny_model().to(dtype), section)
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3)
        models.append(model)
    fast_layers.install(models[1].get_base_model())
    plain, fused = (model.get_base_model().model.language_model.layers[0].mlp.up_proj for model in models)
    assert isinstance(fused, fast_layers.FusedLoRA)
    x = torch.randn(2, 5, 32).to(dtype)
    results = []
    for layer in (plain, fused):
        layer.train()
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = layer(x)
        out.float().square().sum().backward()
        results.append(
            [out.float(), *(one.weight.grad.float() for one in (layer.lora_A["default"], layer.lora_B["default"]))]
        )
    loose = {"rtol": 0.02, "atol": 0.02 * float(results[0][2].abs().max())}
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(
            got, expected, **(loose if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5})
        )
    with models[1].disable_adapter():
        assert fused(x).equal(fused.base_layer(x))
