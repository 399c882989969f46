"""Speed of the quantizers on single layers, against the recursion of the papers written plainly.

    python -m tests.quantizer_speed            # minutes
    python -m tests.quantizer_speed --quick    # less than one, on smaller layers

Layers are N x C x m: inputs, neurons, rows. The plain recursion follows arXiv 2010.15979 and 2201.11113
in float64: the error matrix of all neurons is updated column by column. On large layers its first
k columns are timed, which all cost the same, and the time is scaled by N / k. Every time is the
least of several repetitions, of both sides, in the same process on the same number of threads.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from deployq.alphabet import Alphabet, alphabet
from deployq.quantizers import method, method_names
from deployq.quantizers.forms import Accumulator
from deployq.quantizers.layer import LayerSolution, quantize_layer
from deployq.quantizers.registry import Problem
from deployq.quantizers.sample_form import SamplePath
from deployq.quantizers.samples import SampleAccumulator
from deployq.quantizers.statistics import LayerStatistics, StatisticsAccumulator
from tests.quantizers.layers import Array

SHAPES = "576x64x16384,1152x128x16384,2304x256x16384"
QUICK_SHAPES = "144x32x4096,288x64x4096"
WIDE_SHAPES = "4608x64x1024,9216x64x256"
QUICK_WIDE_SHAPES = "1152x64x256"
ROWS_PER_CHUNK = 4096
CANDIDATES = 13

#: Elements of the error matrix times columns that the plain recursion is timed on.
PLAIN_WORK = 2.5e8


@dataclass(frozen=True)
class Shape:
    """Inputs N, neurons C and rows m of a layer."""

    inputs: int
    neurons: int
    rows: int

    @staticmethod
    def parse(text: str) -> Shape:
        """From NxCxm."""
        return Shape(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"{self.inputs}x{self.neurons}x{self.rows}"


class Benchmark:
    """Layers to time and the clock.

    Args:
        repetitions: of each measurement.
        clock: seconds.
    """

    levels: Alphabet = alphabet("midrise-2")
    scale = 0.8

    def __init__(self, repetitions: int, clock: Callable[[], float]) -> None:
        self.repetitions, self.clock = repetitions, clock

    def seconds(self, function: Callable[[], object], repetitions: int | None = None) -> float:
        """Least time of a call."""
        times = []
        for _ in range(repetitions or self.repetitions):
            start = self.clock()
            function()
            times.append(self.clock() - start)
        return min(times)

    def scales(self, shape: Shape, candidates: int = 1) -> Array:
        """Candidate scales of all neurons, (1, candidates * C)."""
        factors = np.linspace(0.6, 1.8, candidates) if candidates > 1 else np.ones(1)
        return np.repeat(self.scale * factors, shape.neurons)[None]

    def plain(self, shape: Shape, quantized: Array, analog: Array, weights: Array) -> tuple[float, int]:
        """Seconds of the plain recursion on the whole layer, and the number of columns timed."""
        columns = min(shape.inputs, max(8, int(PLAIN_WORK / (shape.rows * shape.neurons))))
        tilde, rows = (array[0, :, :columns].T.astype(np.float64) for array in (quantized, analog))
        taken = self.seconds(lambda: plain_recursion(tilde, rows, weights[0], self.levels, self.scale), 2)
        return taken * shape.inputs / columns, columns


def plain_recursion(tilde: Array, rows: Array, weights: Array, levels: Alphabet, scale: float) -> Array:
    """The first steps of GPFQ as published, for all neurons at once.

    Args:
        tilde: columns of X~, (steps, m), float64.
        rows: columns of X, the same shape.
        weights: (N, C).
        levels: alphabet.
        scale: of all neurons.

    Returns:
        Levels (steps, C).
    """
    error = np.zeros((rows.shape[1], weights.shape[1]))
    found = np.empty((len(rows), weights.shape[1]))
    for t, (quantized, analog) in enumerate(zip(tilde, rows, strict=True)):
        error += np.outer(analog, weights[t])
        found[t] = levels.nearest(quantized @ error / (quantized @ quantized) / scale)
        error -= np.outer(quantized, scale * found[t])
    return found


def layer_rows(shape: Shape, seed: int = 0) -> Iterator[tuple[Array, Array]]:
    """Chunks of float32 rows (1, rows, N) of X~ and X, correlated, X~ with an error of a tenth."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((max(1, shape.inputs // 4), shape.inputs), dtype=np.float32)
    for start in range(0, shape.rows, ROWS_PER_CHUNK):
        count = min(ROWS_PER_CHUNK, shape.rows - start)
        hidden = generator.standard_normal((count, len(mixing)), dtype=np.float32)
        analog = np.maximum(hidden @ mixing / np.float32(np.sqrt(len(mixing))), 0)
        error = np.float32(0.1) * generator.standard_normal(analog.shape, dtype=np.float32)
        yield (analog + error)[None], analog[None]


def layer_weights(shape: Shape) -> Array:
    return np.random.default_rng(1).normal(size=(1, shape.inputs, shape.neurons))


def statistics_of(shape: Shape, chunks: Iterator[tuple[Array, Array]]) -> LayerStatistics:
    accumulator = StatisticsAccumulator(1, shape.inputs)
    for quantized, analog in chunks:
        accumulator.update(quantized, analog)
    return accumulator.finish()


def joined_rows(shape: Shape) -> tuple[Array, Array]:
    """X~ and X as a whole, (1, m, N)."""
    chunks = list(layer_rows(shape))
    quantized, analog = (np.concatenate(part, axis=1) for part in zip(*chunks, strict=True))
    return quantized, analog


def compare_with_plain(benchmark: Benchmark, shape: Shape) -> None:
    """A line of the first table."""
    weights = layer_weights(shape)
    quantized, analog = joined_rows(shape)
    chunks = [
        (quantized[:, start : start + ROWS_PER_CHUNK], analog[:, start : start + ROWS_PER_CHUNK])
        for start in range(0, shape.rows, ROWS_PER_CHUNK)
    ]
    plain, columns = benchmark.plain(shape, quantized, analog, weights)
    forming = benchmark.seconds(lambda: statistics_of(shape, iter(chunks)))
    problem = Problem(statistics_of(shape, iter(chunks)), weights, benchmark.levels)
    preparing = benchmark.seconds(lambda: method("gpfq")(problem))
    solve = method("gpfq")(problem)
    recursion = benchmark.seconds(lambda: solve(benchmark.scales(shape)))
    searching = benchmark.seconds(lambda: solve(benchmark.scales(shape, CANDIDATES)))
    path = SamplePath(quantized, analog, weights, np.float32)
    samples = benchmark.seconds(lambda: path.run(benchmark.scales(shape), benchmark.levels.nearest))
    ours, search = forming + preparing + recursion, forming + preparing + searching
    print(
        f"{shape!s:>16} {plain:9.3f} {f'{columns}/{shape.inputs}':>10} {samples:9.3f} {plain / samples:7.1f}x"
        f" {forming:9.3f} {preparing:9.3f} {recursion:9.3f} {100 * (preparing + recursion) / forming:6.1f} %"
        f" {plain / ours:7.1f}x {searching:9.3f} {CANDIDATES * plain / search:7.1f}x",
        flush=True,
    )


def growth_with_samples(benchmark: Benchmark, shape: Shape) -> None:
    """A line of the second table: time and memory against m, rows made as they are needed."""
    making = benchmark.seconds(lambda: sum(1 for _ in layer_rows(shape)), 1)
    forming = benchmark.seconds(lambda: statistics_of(shape, layer_rows(shape)), 1)
    tracemalloc.start()
    problem = Problem(statistics_of(shape, layer_rows(shape)), layer_weights(shape), benchmark.levels)
    method("gpfq")(problem)(benchmark.scales(shape))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    recursion = benchmark.seconds(lambda: method("gpfq")(problem)(benchmark.scales(shape)))
    print(f"{shape!s:>16} {forming - making:9.3f} {recursion:9.3f} {peak / 2**20:9.1f}", flush=True)


def methods_on(benchmark: Benchmark, shape: Shape, names: tuple[str, ...]) -> None:
    """A line of the third table: seconds with statistics in hand, preparation included, one scale."""
    scales = benchmark.scales(shape)
    statistics = statistics_of(shape, layer_rows(shape))
    problem = Problem(statistics, layer_weights(shape), alphabet("ternary"))

    def seconds(name: str) -> float:
        return benchmark.seconds(lambda: method(name)(problem)(scales))

    print(f"{shape!s:>16}" + "".join(f"{seconds(name):12.3f}" for name in names), flush=True)


def more_inputs_than_samples(benchmark: Benchmark, shape: Shape) -> None:
    """The last table: a layer as deployq solves it, scales searched, on products and on samples."""
    weights = layer_weights(shape)[0].T
    chunks = list(layer_rows(shape))

    def solve(accumulator: Accumulator) -> LayerSolution:
        for quantized, analog in chunks:
            accumulator.update(quantized, analog)
        bias = np.zeros(shape.neurons)
        return quantize_layer(weights, bias, accumulator.finish(), benchmark.levels, "gpfq", "channel")

    found = []
    line = f"{shape!s:>16}"
    forms: tuple[Callable[[], Accumulator], ...] = (
        partial(StatisticsAccumulator, 1, shape.inputs),
        partial(SampleAccumulator, 1, shape.inputs, shape.rows),
    )
    for form in forms:
        start = benchmark.clock()
        found.append(solve(form()))
        seconds = benchmark.clock() - start
        tracemalloc.start()
        solve(form())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        line += f" {seconds:9.3f} {peak / 2**20:9.1f}"
    same = np.mean(found[0].levels == found[1].levels)
    print(f"{line} {100 * same:9.2f} %", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", help=f"NxCxm,... (default {SHAPES})")
    parser.add_argument("--threads", type=int, default=1, help="of the matrix products; deployq uses one")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the process, for a machine that is shared"
    )
    parser.add_argument("--quick", action="store_true", help=f"on {QUICK_SHAPES}")
    arguments = parser.parse_args()
    text = arguments.shapes or (QUICK_SHAPES if arguments.quick else SHAPES)
    shapes = [Shape.parse(shape) for shape in text.split(",")]
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    benchmark = Benchmark(arguments.repetitions, clock)
    quadratic = tuple(name for name in method_names() if name != "maly-saab")
    with threadpool_limits(limits=arguments.threads, user_api="blas"):
        print(f"seconds, {arguments.threads} thread(s), {'CPU' if arguments.cpu_time else 'wall'} time")
        print(
            "\nGPFQ with one scale: the plain recursion, our sample form, and our Gram form: statistics,\n"
            "preparation, recursion (the part of the last two in the first; the ratio of all to plain);\n"
            f"then {CANDIDATES} scales on the same statistics, against as many plain recursions"
        )
        print(
            f"{'N x C x m':>16} {'plain':>9} {'timed':>10} {'samples':>9} {'ratio':>8} {'statist.':>9}"
            f" {'prepare':>9} {'recursion':>9} {'part':>8} {'ratio':>8} {'scales':>9} {'ratio':>8}"
        )
        for shape in shapes:
            compare_with_plain(benchmark, shape)
        print("\ngrowth with m, rows streamed")
        print(f"{'N x C x m':>16} {'statist.':>9} {'solver':>9} {'peak MiB':>9}")
        for factor in (2, 4, 8, 16):
            growth_with_samples(
                benchmark, Shape(shapes[0].inputs, shapes[0].neurons, factor * ROWS_PER_CHUNK)
            )
        print("\nmethods, statistics in hand, one scale")
        print(f"{'N x C x m':>16}" + "".join(f"{name:>12}" for name in (*quadratic, "maly-saab")))
        for place, shape in enumerate(shapes):
            methods_on(benchmark, shape, quadratic if place else (*quadratic, "maly-saab"))
        print("\nmore inputs than samples, scales searched: Gram form, sample form, levels that are equal")
        print(f"{'N x C x m':>16} {'Gram':>9} {'peak MiB':>9} {'samples':>9} {'peak MiB':>9} {'equal':>11}")
        for name in (QUICK_WIDE_SHAPES if arguments.quick else WIDE_SHAPES).split(","):
            more_inputs_than_samples(benchmark, Shape.parse(name))


if __name__ == "__main__":
    main()
