"""The configuration for machines and for reading back: its JSON Schema, and its effective values.

The schema merges the settings of every plugin, so that an editor completes and checks them too.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from relayproxy.api import Plugin
from relayproxy.catalogue import PluginError
from relayproxy.config import yaml
from relayproxy.config.load import Loaded
from relayproxy.config.models import Common, Config

_DIALECTS = {
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
    "07": "http://json-schema.org/draft-07/schema#",
}


def schema(plugins: Mapping[str, type[Plugin[Any]]], *, draft: str = "2020-12") -> dict[str, Any]:
    """Return the JSON Schema of relayproxy.yaml; plugins that can't be loaded take any options."""
    made = Config.model_json_schema(ref_template="#/$defs/{model}")
    definitions = made.setdefault("$defs", {})
    common = _settings(Common, definitions)
    entries: list[dict[str, Any]] = [{"enum": sorted(plugins)}]
    for name in sorted(plugins):
        try:
            own = _settings(plugins[name].settings, definitions)
        except PluginError:
            own = {"additionalProperties": True, "properties": {}}
        options = {
            "type": ["object", "null"],
            "properties": {**own.get("properties", {}), **common["properties"]},
            "additionalProperties": own.get("additionalProperties", False),
            "required": own.get("required", []),
        }
        entries.append(
            {
                "type": "object",
                "properties": {name: options},
                "required": [name],
                "additionalProperties": False,
            }
        )
    made["properties"]["pipeline"] = {
        "description": made["properties"]["pipeline"].get("description", ""),
        "type": "array",
        "items": {"anyOf": entries},
    }
    definitions.pop("PipelineEntry", None)
    made = {"$schema": _DIALECTS[draft], "title": "relayproxy configuration", **made}
    return _draft_07(made) if draft == "07" else made


def _settings(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    made = model.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(made.pop("$defs", {}))
    return made


def _draft_07(value: Any) -> Any:
    """Rewrite what draft-07 says differently: definitions instead of $defs, items instead of prefixItems."""
    if isinstance(value, dict):
        renamed = {"$defs": "definitions", "prefixItems": "items"}
        return {renamed.get(key, key): _draft_07(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_draft_07(item) for item in value]
    return value.replace("#/$defs/", "#/definitions/") if isinstance(value, str) else value


def show(loaded: Loaded, *, origin: bool = False) -> str:
    """Return the effective configuration as YAML that loads to the same; secrets stay references.

    With `origin`, every line that sets a value ends in a comment that says where it comes from.
    """
    assert loaded.config is not None
    values = loaded.config.model_dump(mode="json", exclude_none=True)
    values["pipeline"] = [_written(entry) for entry in values.get("pipeline", [])]
    if not origin:
        return yaml.dump(values)
    lines = []
    for key, value in values.items():
        text = yaml.dump({key: value}).rstrip("\n").split("\n")
        text[0] += f"    # {loaded.origins.get((key,), 'default')}"
        lines.extend(text)
    return "\n".join(lines) + "\n"


def _written(entry: dict[str, Any]) -> Any:
    """Write a pipeline entry as people do."""
    name, options = entry["name"], entry.get("options", {})
    rest = {
        key: value
        for key, value in entry.items()
        if key not in ("name", "options") and value != Common.model_fields[key].default
    }
    return {name: {**options, **rest}} if options or rest else name
