"""The C source of the kernels a network uses, assembled from templates/kernels.

A kernel template names the shared sections it builds on; sections are rendered for the kernel's
variant (its weight width) and texts that come out equal appear once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deployq.codegen.names import c_string, comment_block, comment_text
from deployq.codegen.packing.channel_pairs import ChannelPairFormat
from deployq.codegen.packing.channel_quads import ChannelQuadFormat
from deployq.codegen.packing.fields import pairs
from deployq.codegen.packing.gaps import GapFormat
from deployq.codegen.packing.plane_chunks import PlaneChunkFormat
from deployq.codegen.packing.streams import dense, lanes
from deployq.codegen.packing.vectors import VectorFormat
from deployq.codegen.packing.woven import woven
from deployq.codegen.tables import c_table
from deployq.ops import KernelCall
from deployq.resources import resource_directory


@dataclass(frozen=True)
class KernelSource:
    """Texts of the kernels of a network.

    Attributes:
        headers: parameter structures.
        prototypes: one per kernel.
        sources: helpers and kernels, in an order in which they compile.
    """

    headers: tuple[str, ...]
    prototypes: tuple[str, ...]
    sources: tuple[str, ...]


@cache
def template_environment() -> Environment:
    """The Jinja environment of all C templates."""
    environment = Environment(
        loader=FileSystemLoader(resource_directory("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.globals |= {
        "dense": dense,
        "lanes": lanes,
        "gaps": GapFormat,
        "channel_pairs": ChannelPairFormat,
        "channel_quads": ChannelQuadFormat,
        "pairs": pairs,
        "plane_chunks": PlaneChunkFormat,
        "vectors": VectorFormat,
        "woven": woven,
    }
    environment.filters |= {
        "comment": comment_text,
        "comment_block": comment_block,
        "string": c_string,
        "table": c_table,
    }
    return environment


def kernel_module(environment: Environment, template: str, linkage: str = "") -> Any:
    """The macros and variables of a kernel template."""
    return environment.get_template(f"kernels/{template}").make_module({"linkage": linkage})


def kernel_source(environment: Environment, calls: Iterable[KernelCall], linkage: str = "") -> KernelSource:
    """Source of all kernels that the calls use.

    Args:
        environment: from `template_environment`.
        calls: kernel calls of the network.
        linkage: "" or "static " before every kernel.

    Raises:
        ValueError: two different variants of a kernel have one name.
    """
    headers: dict[str, None] = {}
    prototypes: dict[str, None] = {}
    sources: dict[str, None] = {}
    variants: dict[str, KernelCall] = {}
    for call in calls:
        known = variants.setdefault(call.function, call)
        if (known.template, dict(known.variant)) != (call.template, dict(call.variant)):
            raise ValueError(f"two variants are called {call.function}: {known.variant}, {call.variant}")
    for function, call in sorted(variants.items()):
        module = kernel_module(environment, call.template, linkage)
        for section in _sections(environment, module, call.variant):
            headers.setdefault(section.header(call.variant).strip())
            sources.setdefault(section.source(call.variant).strip())
        headers.setdefault(module.header(call.variant).strip())
        prototypes.setdefault(module.prototype(function, call.variant).strip())
        sources.setdefault(module.source(function, call.variant).strip())
    return KernelSource(*(tuple(text for text in texts if text) for texts in (headers, prototypes, sources)))


def _sections(environment: Environment, module: Any, variant: Mapping[str, Any]) -> Iterator[Any]:
    """Shared sections a template builds on, each after those it needs itself.

    A name may hold template variables of the variant, as in "gather_{gather}".
    """
    for name in module.sections:
        section = kernel_module(environment, f"shared/{name.format_map(variant)}.c.j2")
        yield from _sections(environment, section, variant)
        yield section


def nested(members: Mapping[str, Any]) -> dict[str, Any]:
    """Members of a structure with dotted names as nested dictionaries."""
    result: dict[str, Any] = {}
    for name, value in members.items():
        *path, last = name.split(".")
        inner = result
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return result
