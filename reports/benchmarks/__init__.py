"""The built-in benchmarks. Other rooms import VSI-Bench from here, and all others by the registry."""

from reports.benchmarks.vsibench import VSIBench, figures_of

__all__ = ["VSIBench", "figures_of"]
