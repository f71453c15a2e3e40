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
from relayproxy.config.masking import is_secret_name
from relayproxy.config.models import Common, Config
from relayproxy.rules import schema as rules

_DIALECTS = {
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
    "07": "http://json-schema.org/draft-07/schema#",
}


def schema(plugins: Mapping[str, type[Plugin[Any]]], *, draft: str = "2020-12") -> dict[str, Any]:
    """Return the JSON Schema of relayproxy.yaml; plugins that can't be loaded take any options."""
    made = Config.model_json_schema(ref_template="#/$defs/{model}")
    definitions = made.setdefault("$defs", {})
    common = _settings(Common, "", definitions)
    entries: list[dict[str, Any]] = [{"enum": sorted(plugins)}]
    for name in sorted(plugins):
        try:
            own = _settings(plugins[name].settings, f"{name}.", definitions)
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
    definitions.update(rules.definitions())
    made["properties"] |= {
        "lists": rules.lists_schema(),
        "rules": rules.rules_schema(),
        "tests": rules.tests_schema(),
    }
    made = {"$schema": _DIALECTS[draft], **made, "title": "relayproxy configuration"}
    return _draft_07(made) if draft == "07" else made


def _settings(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a model's schema; its definitions go to the others, under names that no other model can have."""
    made = model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
    definitions.update({f"{prefix}{name}": value for name, value in made.pop("$defs", {}).items()})
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
    values = _present(loaded.config.model_dump(mode="json"))
    for listener, shown in zip(loaded.config.listeners, values["listeners"], strict=True):
        own = {
            name: shown["limits"][name]
            for name in shown["limits"]
            if name in listener.limits.model_fields_set
        }
        shown["limits"] = own  # the others are the global ones
    values["pipeline"] = [_written(entry) for entry in values["pipeline"]]
    text = yaml.dump(values)
    return _with_origins(text, loaded) if origin else text


def _present(value: Any) -> Any:
    """Return plain values without those that are not there, and with the text of secrets taken out."""
    if isinstance(value, dict):
        return {
            key: "***" if isinstance(item, str) and is_secret_name(key) else _present(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_present(item) for item in value]
    return str(value) if isinstance(value, str) else value


def _with_origins(text: str, loaded: Loaded) -> str:
    """Put behind each line that holds a value where the value is from."""
    document = yaml.read(text)
    lines = text.split("\n")
    for at, span in document.values.items():
        value: Any = document.value
        for part in at:
            value = value[part]
        whole = not isinstance(value, (dict, list)) or not value
        if whole and "\n" not in str(value):
            lines[span.line - 1] += f"  # {loaded.origin(at)}"
    return "\n".join(lines)


def _written(entry: dict[str, Any]) -> Any:
    """Write a pipeline entry as people do."""
    name, options = entry["name"], entry["options"]
    common = {
        key: value
        for key, value in entry.items()
        if key not in ("name", "options") and value != Common.model_fields[key].default
    }
    return {name: {**options, **common}} if options or common else name
