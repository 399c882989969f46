"""`deployq bench`: what the generated C of an output directory costs on a core."""

from deployq.bench.measure import DEFAULT_SAMPLES, bench_directory

__all__ = ["DEFAULT_SAMPLES", "bench_directory"]
