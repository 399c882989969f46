"""Configuration: defaults, reading, checks, and build.toml."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployq.config import BuildConfig
from deployq.config_file import example_config, load_config
from deployq.config_values import map_data_paths, toml_value
from deployq.errors import UsageError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_to_toml_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    config = BuildConfig(
        model=tmp_path / "net.onnx",
        calibration=f"{tmp_path}/data.npz:x_train",
        evaluation=f"{tmp_path}/x.npy,{tmp_path}/y.npy",
        name="net",
        output=tmp_path / "deep" / "out",
        target="cortex-m0plus",
        bits="auto",
        first="8",
        last="ternary",
        layer_bits=("conv=1=4", "fc=2"),
        average_bits=2.5,
        max_drop=1.5,
        method="msq",
        order="descending",
        refine=3,
        ridge=0.25,
        copies=2,
        tune=7,
        augmentation="shift",
        task="regression",
        threshold="hard",
        sparsity=0.75,
        directions=12,
        spfq_alphabet="infinite",
        granularity="layer",
        activation_range="percentile",
        percentile=99.5,
        calibration_limit=17,
        layout="nhwc",
        resize=True,
        scale=1 / 255,
        mean=(0.1, 1e-7, 3.0),
        std=(1.0, 2.5, 1e20),
        io_layout="nchw",
        optimize="flash",
        float_io=True,
        single_file=True,
        input_rows=True,
        seed=2**40,
        flash=65536,
        ram=16384,
        min_accuracy=97.5,
        strict=True,
        verify_samples=3,
        host_samples=5,
    )
    unset = {item.name for item in fields(config) if getattr(config, item.name) == item.default}
    assert unset == {"force", "alphabet"}, "every setting should be exercised"
    config.output.mkdir(parents=True)
    file = write(config.output / "build.toml", config.to_toml())
    again = load_config({}, config_file=file)

    def resolved(text: str) -> str:
        return map_data_paths(text, lambda path: str(Path(path).resolve()))

    assert again.model is not None and config.model is not None
    assert (again.calibration and resolved(again.calibration)) == config.calibration
    assert (again.evaluation and resolved(again.evaluation)) == config.evaluation
    assert again.model.resolve() == config.model
    assert again.output.resolve() == config.output
    paths = ("model", "calibration", "evaluation", "output")
    assert replace(again, **{name: getattr(config, name) for name in paths}) == config
    assert again.to_toml() == config.to_toml()


def test_an_alphabet_reads_back(tmp_path: Path) -> None:
    config = BuildConfig(model=tmp_path / "net.onnx", alphabet="midtread-4")
    file = write(tmp_path / "build.toml", config.to_toml())
    assert load_config({}, config_file=file).alphabet == "midtread-4"


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"bits": "auto"}, "--bits auto"),
        ({"average_bits": 2.1}, "--average-bits"),
        ({"max_drop": 1.0}, "--max-drop"),
        ({"bits": "auto", "average_bits": 0.5}, "--average-bits"),
        ({"bits": "auto", "average_bits": float("nan")}, "--average-bits"),
        ({"first": "9"}, "--first"),
        ({"layer_bits": ("conv",)}, "--layer-bits"),
        ({"layer_bits": ("=4",)}, "--layer-bits"),
        ({"layer_bits": ("conv=17",)}, "--layer-bits"),
        ({"order": "random"}, "--order"),
        ({"threshold": "firm"}, "--threshold"),
        ({"sparsity": -1.0}, "--sparsity"),
        ({"spfq_alphabet": "endless"}, "--spfq-alphabet"),
        ({"ridge": float("inf")}, "--ridge"),
        ({"directions": 0}, "--directions"),
        ({"refine": -1}, "--refine"),
        ({"copies": 0}, "--copies"),
        ({"tune": -1}, "--tune"),
        ({"augmentation": "rotate"}, "--augmentation"),
        ({"task": "guess"}, "--task"),
        ({"method": "magic"}, "--method"),
    ],
)
def test_quantizer_settings_out_of_range(values: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as caught:
        BuildConfig(**values)
    assert caught.value.where == where


def test_build_toml_names_no_absolute_path(tmp_path: Path) -> None:
    config = BuildConfig(model=tmp_path / "a.onnx", calibration=f"{tmp_path}/c.npy", output=tmp_path / "out")
    table = tomllib.loads(config.to_toml())
    assert (table["model"], table["calibration"], table["output"]) == ("../a.onnx", "../c.npy", ".")
    assert table["name"] == "a"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives_toml(text: str) -> None:
    assert tomllib.loads(f"key = {toml_value(text)}") == {"key": text}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_survives_toml(number: float) -> None:
    assert tomllib.loads(f"key = {toml_value(number)}")["key"] == number


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = 'model = "m.onnx"\ncalibration = "d.npz:x"\nevaluation = "d.npz:x,y"\noutput = "out"\n'
    config = load_config({}, config_file=write(tmp_path / "any.toml", text))
    assert config.model == tmp_path / "m.onnx"
    assert config.calibration == f"{tmp_path}/d.npz:x"
    assert config.evaluation == f"{tmp_path}/d.npz:x,y"
    assert config.output == tmp_path / "out"


def test_options_override_the_file(tmp_path: Path) -> None:
    write(tmp_path / "deployq.toml", 'model = "m.onnx"\ntarget = "cortex-m3"\nbits = 4\nseed = 7\n')
    config = load_config({"target": "host", "model": "other.onnx"}, directory=tmp_path)
    assert (config.target, config.bits, config.seed) == ("host", "4", 7)
    assert config.model == Path("other.onnx")


def test_deployq_toml_comes_before_pyproject(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool.deployq]\nseed = 1\n")
    assert load_config({}, directory=tmp_path).seed == 1
    write(tmp_path / "deployq.toml", "seed = 2\n")
    assert load_config({}, directory=tmp_path).seed == 2


def test_without_a_configuration_and_a_model_it_is_the_example(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", "[tool.other]\n")
    config = load_config({}, directory=tmp_path)
    assert config.model == example_config().parent / "digits.onnx"
    assert config.scale == 1 / 255
    assert config.output == Path("deployq-out"), "the output belongs to the current directory"
    assert load_config({"model": "m.onnx"}, directory=tmp_path).calibration is None


def test_a_width_on_the_command_line_replaces_the_alphabet_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", 'alphabet = "midtread-4"\n')
    assert load_config({}, config_file=file).bits == "4"
    config = load_config({"bits": "1"}, config_file=file)
    assert (config.bits, config.alphabet) == ("1", None)
    file = write(tmp_path / "c.toml", "bits = 8\n")
    config = load_config({"alphabet": "ternary"}, config_file=file)
    assert (config.bits, config.alphabet) == ("ternary", "ternary")


@pytest.mark.parametrize(("text", "value"), [("64K", 65536), ("1M", 2**20), ("300", 300), ("2 KiB", 2048)])
def test_sizes(text: str, value: int) -> None:
    assert load_config({"flash": text, "model": "m"}).flash == value


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("target", "z80"),
        ("bits", "9"),
        ("bits", "0"),
        ("alphabet", "midrise-9"),
        ("method", "magic"),
        ("granularity", "tensor"),
        ("activation_range", "median"),
        ("percentile", "20"),
        ("calibration_limit", "0"),
        ("calibration_limit", "many"),
        ("layout", "chwn"),
        ("io_layout", "chwn"),
        ("optimize", "size"),
        ("scale", "0"),
        ("scale", "nan"),
        ("scale", "1/0"),
        ("scale", "1/2/3"),
        ("mean", "0.5,,1"),
        ("mean", "inf"),
        ("std", "-1"),
        ("seed", "-1"),
        ("flash", "64Q"),
        ("flash", "-1"),
        ("flash", "0"),
        ("ram", "1.5K"),
        ("min_accuracy", "101"),
        ("min_accuracy", "nan"),
        ("verify_samples", "0"),
        ("host_samples", "0"),
        ("name", "2fast"),
        ("name", "int"),
        ("model", ""),
    ],
)
def test_values_out_of_range_are_usage_errors(setting: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config({"model": "m.onnx", setting: value})
    option = "--" + setting.replace("_", "-")
    assert option in caught.value.where or setting in str(caught.value) or value in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "seed = true",
        "scale = true",
        'strict = "yes"',
        "mean = []",
        'mean = [1, "x"]',
        "model = 3",
        "flash = 1.5",
    ],
)
def test_values_of_the_wrong_type_name_file_and_key(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_config({}, config_file=write(tmp_path / "c.toml", text))
    assert caught.value.where == f"{tmp_path}/c.toml, {text.split(' =')[0]}"


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="calibation") as caught:
        load_config({}, config_file=write(tmp_path / "c.toml", 'calibation = "x.npy"'))
    assert "'calibration'" in caught.value.hint
    assert caught.value.where == str(tmp_path / "c.toml")


@pytest.mark.parametrize("content", [b"seed = ", b"\xff\xfe", b"[tool"])
def test_files_that_are_not_toml(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "deployq.toml").write_bytes(content)
    with pytest.raises(UsageError, match="cannot read"):
        load_config({}, directory=tmp_path)


def test_a_missing_file_and_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load_config({}, config_file=tmp_path / "absent.toml")
    write(tmp_path / "pyproject.toml", "[tool]\ndeployq = 3\n")
    with pytest.raises(UsageError, match="not a table"):
        load_config({}, directory=tmp_path)


def test_width_and_alphabet_must_agree() -> None:
    with pytest.raises(UsageError, match="does not have 4 bits"):
        load_config({"bits": "4", "alphabet": "midrise-2", "model": "m"})
    assert load_config({"bits": "binary", "alphabet": "midrise-1", "model": "m"}).bits == "1"


@pytest.mark.parametrize(
    ("file", "prefix"),
    [
        ("digits.onnx", "digits"),
        ("ResNet-8 (final).onnx", "ResNet_8_final"),
        ("8bit.onnx", "m_8bit"),
        ("int.onnx", "m_int"),
        ("dq_net.onnx", "m_dq_net"),
        ("模型.onnx", "m"),
        ("x" * 80 + ".onnx", "x" * 40),
        ("main.onnx", "m_main"),
    ],
)
def test_the_prefix_comes_from_the_model(file: str, prefix: str) -> None:
    assert BuildConfig(model=Path(file)).prefix == prefix


@pytest.mark.parametrize(
    ("spec", "moved"),
    [
        ("a.npy", "/a.npy"),
        ("a.npz:x", "/a.npz:x"),
        ("a.npz:x,y", "/a.npz:x,y"),
        ("a.npy,b.npy", "/a.npy,/b.npy"),
        ("a.npz:x,b.npz:y", "/a.npz:x,/b.npz:y"),
        ("images", "/images"),
        ("im,ages", "/im,ages"),
    ],
)
def test_paths_in_data_specifications(spec: str, moved: str) -> None:
    assert map_data_paths(spec, lambda path: f"/{path}") == moved


def test_every_field_can_be_read_and_is_documented() -> None:
    documentation: Any = BuildConfig.__doc__
    for item in fields(BuildConfig):
        assert callable(item.metadata["reader"])
        assert f"\n        {item.name}: " in documentation


def test_a_directory_between_output_and_model_must_be_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "d\udcff"
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(UsageError, match="not valid UTF-8"):
        BuildConfig(model=Path("net.onnx"), output=tmp_path / "out")
    assert BuildConfig(model=Path("net.onnx"), output=Path("out")).prefix == "net"


def test_a_deeply_nested_file(tmp_path: Path) -> None:
    path = write(tmp_path / "deployq.toml", "mean = " + "[" * 50_000)
    with pytest.raises(UsageError, match="cannot read the configuration"):
        load_config({}, config_file=path)
