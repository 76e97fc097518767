"""The engine: one model, run fast and exactly, for training, sampling and evaluation.

A map, from the bottom up:

- ``kv_cache``: KV caches of a decode step, a shared prefix once and every row's own suffix.
- ``attention``: attention over a shared prefix, registered with transformers.
- ``packing``: prompts and completions as packed rows ``[prefix; suffixes]``, one for each shared prefix.
- ``fast_layers``: faster layers with the same results; ``vision_features``: each video once through the tower.
- ``activation_recomputation``: layers that keep little for the backward pass (selective checkpointing).
- ``model_runner``: forward pass over packed rows, prefill, decode step, logits, token log-probabilities.
- ``activation_reuse``: the prefill of sampling serves the update too (on a CPU, in full precision).
- ``policy``: the model with its tokenizer: embedded prompts, log-probabilities, the reference model.
- ``decoding``: prefill and KV caches of completions that grow; ``cuda_graphs``: decode steps captured on a GPU.
- ``sampler``: the built-in sampler, and ``make_sampler``, the one place where a study's sampler is made.
- ``self_check``: compares the shared engine with the naive one at the start of a run.
- ``out_of_memory``: halves the batch size when memory runs out.
"""
