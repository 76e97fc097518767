"""Other libraries' trainers on the same prompts and rewards, for comparison with the harness's own."""
