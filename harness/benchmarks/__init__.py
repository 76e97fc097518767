"""Benchmarks of VSI-Bench's kind as data: a TOML file says what is asked, how, and what a right answer is worth."""
