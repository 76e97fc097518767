"""The built-in benchmarks. Other rooms import VSI-Bench from here, and all others by the registry."""

from reports.benchmarks.described import Described
from reports.benchmarks.vsibench import VSIBench

__all__ = ["Described", "VSIBench"]
