"""Other libraries' trainers on the same prompts and rewards, so that ours can be compared with them."""
