"""The command line: parses, calls `pipeline`, `quantization`, `inspection` or `bench`; errors to exit codes.

The result goes to stdout, as text or with --json as one JSON document; everything else to stderr.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from deployq.bench import DEFAULT_SAMPLES, bench_directory
from deployq.comparison import DEFAULT_WIDTHS
from deployq.config import METHODS, BuildConfig
from deployq.config_file import load_config
from deployq.console import Output, Row, open_standard_streams
from deployq.errors import DeployqError, ExitCode, UsageError
from deployq.inspection import inspect_model, verify_directory
from deployq.ops import import_notes
from deployq.pipeline import build_from_config
from deployq.quantization import DEFAULT_COMPARISON, DEFAULT_OUTPUT, quantize_from_options
from deployq.report import render_inspection, render_text, render_verification, to_document
from deployq.report.bench import render_bench
from deployq.startup import is_command_line
from deployq.targets import load_target, target_names

#: Set to see the traceback of an unexpected error even where --verbose was not given.
TRACEBACK_VARIABLE = "DEPLOYQ_TRACEBACK"
#: Exit code after Ctrl-C, that of shells for a command ended by SIGINT.
INTERRUPTED = 130
_PACKAGES = ("deployq", "onnx", "onnxruntime", "numpy", "torch")

app = typer.Typer(
    name="deployq",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Traceback of unexpected errors.")]
Text = str | None
Number = int | None
Flag = bool | None
Command = Callable[..., None]


def _option(name: str, help_text: str, *more: str) -> Any:
    return typer.Option(name, *more, help=help_text, show_default=False)


def _listing(directory: Path) -> str:
    """Names of the entries of a directory."""
    return ", ".join(f"{path.name}/" if path.is_dir() else path.name for path in sorted(directory.iterdir()))


@app.command()
def build(
    context: typer.Context,
    model: Annotated[
        Text, typer.Argument(help="ONNX file; else that of deployq.toml, else the digits example.")
    ] = None,
    config: Annotated[Path | None, _option("--config", "TOML file to read instead of deployq.toml.")] = None,
    calibration: Annotated[
        Text, _option("--calib", "Samples: FILE.npy, FILE.npz:KEY or a folder of images.")
    ] = None,
    evaluation: Annotated[
        Text, _option("--eval", "Labelled samples: FILE.npz:X_KEY,Y_KEY or a folder of class folders.")
    ] = None,
    target: Annotated[Text, _option("--target", "Core, see `deployq targets` [cortex-m4].")] = None,
    bits: Annotated[Text, _option("--bits", "Weight width: 1..8, ternary, binary, or auto [2].")] = None,
    first: Annotated[Text, _option("--first", "Width of the first layer.")] = None,
    last: Annotated[Text, _option("--last", "Width of the last layer.")] = None,
    layer_bits: Annotated[
        list[str] | None, _option("--layer-bits", "Width of one layer, NAME=4; may be repeated.")
    ] = None,
    average_bits: Annotated[
        Text, _option("--average-bits", "Budget of --bits auto in bits per weight, padding included.")
    ] = None,
    max_drop: Annotated[
        Text, _option("--max-drop", "With --bits auto: points of accuracy that may be lost, on --eval.")
    ] = None,
    alphabet: Annotated[Text, _option("--alphabet", "Weight alphabet by name, e.g. midtread-4.")] = None,
    method: Annotated[Text, _option("--method", f"{', '.join(METHODS)} [auto].")] = None,
    order: Annotated[Text, _option("--order", "natural or descending [of the method].")] = None,
    refine: Annotated[Number, _option("--refine", "Rounds of coordinate descent [of the method].")] = None,
    ridge: Annotated[Text, _option("--ridge", "Hold weights where samples are few [of the method].")] = None,
    copies: Annotated[
        Number, _option("--copies", "Times an image is used, augmented [of the method].")
    ] = None,
    tune: Annotated[Number, _option("--tune", "Passes of tuning scales and biases [of the method].")] = None,
    augmentation: Annotated[Text, _option("--augmentation", "auto, none, shift, flip or mix [auto].")] = None,
    task: Annotated[Text, _option("--task", "classification, regression or auto [auto].")] = None,
    threshold: Annotated[Text, _option("--threshold", "Of sparse-gpfq: soft or hard [soft].")] = None,
    sparsity: Annotated[
        Text, _option("--sparsity", "Of sparse-gpfq: lambda in steps [0.5; 1 if hard].")
    ] = None,
    directions: Annotated[Number, _option("--directions", "Of maly-saab: directions kept.")] = None,
    spfq_alphabet: Annotated[
        Text, _option("--spfq-alphabet", "Of spfq: finite, or infinite (bits follow) [finite].")
    ] = None,
    granularity: Annotated[Text, _option("--granularity", "Scale per channel or layer [channel].")] = None,
    name: Annotated[Text, _option("--name", "Prefix of the generated C [from the model file].")] = None,
    output: Annotated[Text, _option("--output", "Directory to write [deployq-out].", "-o")] = None,
    layout: Annotated[Text, _option("--layout", "Axis order of stored images: nchw or nhwc [nchw].")] = None,
    resize: Annotated[Flag, _option("--resize/--no-resize", "Resize images to the network's input.")] = None,
    scale: Annotated[Text, _option("--scale", "Input = (stored * SCALE - MEAN) / STD, e.g. 1/255.")] = None,
    mean: Annotated[Text, _option("--mean", "One value, or one per channel: 0.5,0.4,0.4.")] = None,
    std: Annotated[Text, _option("--std", "One value, or one per channel.")] = None,
    activation_range: Annotated[
        Text, _option("--activation-range", "minmax, percentile or mse [minmax].")
    ] = None,
    percentile: Annotated[Text, _option("--percentile", "Values kept, in percent [99.99].")] = None,
    calibration_limit: Annotated[
        Number, _option("--calibration-limit", "Calibration samples at most [1024].")
    ] = None,
    io_layout: Annotated[Text, _option("--io-layout", "Layout of the C function: nhwc or nchw.")] = None,
    float_io: Annotated[Flag, _option("--float-io/--no-float-io", "Also an ONNX with float I/O.")] = None,
    single_file: Annotated[Flag, _option("--single-file/--no-single-file", "One C file.")] = None,
    input_rows: Annotated[
        Flag, _option("--input-rows/--no-input-rows", "The C asks for its input row by row: no image in RAM.")
    ] = None,
    optimize: Annotated[
        Text, _option("--optimize", "Where they conflict: speed, ram, flash or balanced [balanced].")
    ] = None,
    flash: Annotated[Text, _option("--flash", "Flash budget, e.g. 64K; exit code 4 if exceeded.")] = None,
    ram: Annotated[Text, _option("--ram", "RAM budget, e.g. 16K; exit code 4 if exceeded.")] = None,
    min_accuracy: Annotated[Text, _option("--min-accuracy", "In percent; exit code 7 if below.")] = None,
    verify_samples: Annotated[Number, _option("--verify-samples", "Samples in QEMU [64].")] = None,
    host_samples: Annotated[Number, _option("--host-samples", "Samples on the host [1000].")] = None,
    seed: Annotated[Number, _option("--seed", "Of everything random [0].")] = None,
    strict: Annotated[Flag, _option("--strict/--no-strict", "A missing tool is exit code 6.")] = None,
    force: Annotated[Flag, _option("--force", "Replace a directory deployq did not write.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Quantize a network, generate its C library, and prove both equal byte for byte."""
    names = {item.name for item in fields(BuildConfig)}
    options = {key: value for key, value in context.params.items() if key in names and value is not None}
    settings = load_config(options, config_file=config)
    console = Output(as_json=as_json, quiet=quiet)
    with console.progress() as progress:
        result = build_from_config(settings, progress)
    console.result(
        {**to_document(result.report), "directory": str(result.directory)},
        f"{render_text(result.report)}\nwritten to {result.directory}: {_listing(result.directory)}\n",
    )


def _with_options_of_build(*without: str) -> Callable[[Command], Command]:
    """Decorator: a command takes the options of `build`, except some, besides its own."""

    def extend(command: Command) -> Command:
        own = signature(command, eval_str=True).parameters.values()
        named = [parameter for parameter in own if parameter.kind is not Parameter.VAR_KEYWORD]
        known = {*without, *(parameter.name for parameter in named)}
        others = signature(build, eval_str=True).parameters.values()
        more = [parameter for parameter in others if parameter.name not in known]
        command.__signature__ = Signature([*named, *more])  # type: ignore[attr-defined]
        return command

    return extend


@app.command()
@_with_options_of_build(
    *("name", "io_layout", "float_io", "single_file", "input_rows", "min_accuracy"),
    *("verify_samples", "host_samples", "strict"),
)
def quantize(
    context: typer.Context,
    model: Annotated[
        Text, typer.Argument(help="ONNX file; else that of deployq.toml, else the digits example.")
    ] = None,
    compare: Annotated[Text, _option("--compare", "Methods to compare: gpfq,spfq,gptq,qronos,auto.")] = None,
    bits: Annotated[
        Text, _option("--bits", f"Weight width [2]; widths with --compare [{DEFAULT_WIDTHS}].")
    ] = None,
    seeds: Annotated[Number, _option("--seeds", "Calibration subsets to average a comparison over.")] = None,
    output: Annotated[
        Text, _option("--output", f"Directory to write [{DEFAULT_OUTPUT} or {DEFAULT_COMPARISON}].", "-o")
    ] = None,
    config: Annotated[Path | None, _option("--config", "TOML file to read instead of deployq.toml.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    **of_build: Any,
) -> None:
    """Quantize a network to integer ONNX and measure it, or compare methods and widths; no C."""
    names = {item.name for item in fields(BuildConfig)}
    options = {key: value for key, value in context.params.items() if key in names and value is not None}
    console = Output(as_json=as_json, quiet=quiet)
    with console.progress() as progress:
        result = quantize_from_options(options, config, compare, seeds, progress)
    console.result(
        {**to_document(result.report), "directory": str(result.directory)},
        f"{result.text}\nwritten to {result.directory}: {_listing(result.directory)}\n",
    )


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="Directory written by `deployq build`.")],
    verify_samples: Annotated[int, typer.Option("--verify-samples", min=1, help="Samples in QEMU.")] = 64,
    strict: Annotated[bool, typer.Option("--strict", help="A missing tool is exit code 6.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run the executors of an output directory again and compare every byte."""
    console = Output(as_json=as_json, quiet=quiet)
    with console.progress() as progress:
        report = verify_directory(directory, strict=strict, qemu_samples=verify_samples, progress=progress)
    console.result(to_document(report), render_verification(report))


@app.command()
def bench(
    directory: Annotated[Path, typer.Argument(help="Directory written by `deployq build`.")],
    target: Annotated[Text, _option("--target", "Core to measure on [that of the build].")] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Inferences to average.")
    ] = DEFAULT_SAMPLES,
    cycles: Annotated[
        bool, typer.Option("--cycles", help="Also model the cycles of a Cortex-M4, not measured on silicon.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure the C of an output directory in QEMU: instructions per layer, code, memory."""
    console = Output(as_json=as_json, quiet=quiet)
    with console.progress() as progress:
        report = bench_directory(directory, target=target, samples=samples, cycles=cycles, progress=progress)
    console.result(to_document(report), render_bench(report))


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="ONNX file.")],
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the layers of a model, or everything in it that is not supported."""
    report = inspect_model(model)
    Output(as_json=as_json).result(to_document(report), render_inspection(report))


@app.command()
def targets(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the processor cores deployq generates code for."""
    found = [load_target(name) for name in target_names()]
    rows: list[Row] = [
        {
            "name": target.name,
            "description": target.description,
            "features": sorted(target.features),
            "machines": [machine.name for machine in target.machines],
        }
        for target in found
    ]
    columns = ("name", "description", "features", "machines")
    Output(as_json=as_json).listing("targets", columns, rows)


@app.command()
def ops(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the ONNX operators deployq imports, with their limits."""
    rows: list[Row] = [{"operator": name, "note": note} for name, note in import_notes().items()]
    Output(as_json=as_json).listing("operators", ("operator", "note"), rows)


@app.callback(invoke_without_command=True)
def entry(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print versions and exit.")] = False,
) -> None:
    """From a trained network to a bit-exact low-bit C library for microcontrollers."""
    if show_version:
        Output().result({}, "".join(f"{name} {_version(name)}\n" for name in _PACKAGES))
        raise typer.Exit
    if context.invoked_subcommand is None:
        Output().result({}, context.get_help() + "\n")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see `deployq.errors.ExitCode`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names from models print on any terminal
    console = Output(as_json="--json" in words)
    try:
        status = app(words, standalone_mode=False)
    except typer.TyperException as error:
        console.error(UsageError(error.format_message(), hint="--help lists commands and options"))
        return ExitCode.USAGE
    except DeployqError as error:
        console.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the one place where an unexpected error becomes a message
        return _unexpected(error, console, verbose="--verbose" in words)
    return int(status or ExitCode.OK)  # typer returns the code of an early exit, INTERRUPTED after Ctrl-C


def _unexpected(error: Exception, console: Output, *, verbose: bool) -> int:
    """Show an error nobody foresaw; returns the exit code."""
    if verbose or os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    lines = str(error).strip().splitlines() or [""]
    why = f"{type(error).__name__}: {lines[0]}"
    hint = "--verbose shows where; please report it with the model"
    console.error(DeployqError("internal error", why=why, hint=hint))
    return ExitCode.INTERNAL


def entry_point() -> None:
    """The installed command `deployq`; a request to terminate removes what is half-written, like Ctrl-C."""
    open_standard_streams()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and is_command_line():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # see deployq.startup
    for request in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(request) != signal.SIG_IGN:  # nohup
            signal.signal(request, signal.default_int_handler)
    sys.exit(main())
