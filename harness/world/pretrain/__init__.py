"""Pre-training of the embedded tiny base model: a staged, resumable recipe."""
