"""What the conformance suite (:mod:`harness.testing`) is made of."""
