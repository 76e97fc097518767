"""The commands of ``harness``; each module is imported only when its command runs."""
