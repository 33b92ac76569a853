"""Configurations of models without the names of their layers, which Keras counts on in each process."""

from __future__ import annotations

from typing import Any

_PLACES_OF_NAMES = ("name", "inbound_nodes", "input_layers", "output_layers")


def without_names(config: Any) -> Any:
    """Returns a model's configuration with numbers, in order, for the names of its layers."""
    return _without_names(config, _names_in(config))


def _names_in(config: Any) -> dict[str, str]:
    """Returns a number for the name of each layer of a model's configuration, in order."""
    found: dict[str, str] = {}

    def visit(part: Any) -> None:
        if isinstance(part, dict):
            if "class_name" in part and isinstance(part.get("config"), dict) and "name" in part["config"]:
                found.setdefault(str(part["config"]["name"]), f"layer {len(found)}")
            part = list(part.values())
        if isinstance(part, (list, tuple)):
            for inner in part:
                visit(inner)

    visit({"class_name": "", "config": config})
    return found


def _without_names(part: Any, names: dict[str, str], inside: bool = False) -> Any:
    """Returns a configuration with numbers for the names of layers, where names stand."""
    if isinstance(part, dict):
        return {
            key: _without_names(
                value, names, inside or key in ("name", "inbound_nodes", "input_layers", "output_layers")
            )
            for key, value in part.items()
        }
    if isinstance(part, (list, tuple)):
        return [_without_names(value, names, inside) for value in part]
    return names.get(part, part) if inside and isinstance(part, str) else part
