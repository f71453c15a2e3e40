"""The rule language for editors: JSON Schema made from the tables of facts, operators and actions.

Must not say anything that the tables don't.
"""

from typing import Any

from relayproxy.rules.action_table import ACTIONS
from relayproxy.rules.cases import CLIENT, EXPECT, GIVEN, VERDICTS
from relayproxy.rules.conditions import GROUPS
from relayproxy.rules.fact_table import FACTS, FAMILIES, finding_fact
from relayproxy.rules.facts import CHECKS, Fact, Kind
from relayproxy.rules.lists import TYPES
from relayproxy.rules.operators import OPERATORS
from relayproxy.rules.reader import MODES, ON_ERROR

_CONDITION = {"$ref": "#/$defs/RuleCondition"}


def definitions() -> dict[str, Any]:
    """Return the schemas that the others refer to."""
    return {"RuleCondition": _condition()}


def rules_schema() -> dict[str, Any]:
    """Return the schema of `rules`."""
    actions = {
        "type": "object",
        "properties": {row.name: {"description": row.doc, **row.schema} for row in ACTIONS.values()},
        "additionalProperties": False,
        "minProperties": 1,
    }
    words = [name for name in ("reject", "defer", "discard", "hold", "accept") if name in ACTIONS]
    properties = {
        "id": {"type": "string", "description": "the rule's name in logs, tests and reports"},
        "description": {"type": "string", "description": "what it is for"},
        "match": {"description": "what must hold; left out: all mail", **_CONDITION},
        "when": {
            "type": "string",
            "description": "an expression in CEL that must hold too (relayproxy[cel])",
        },
        "then": {"anyOf": [actions, {"type": "array", "items": actions, "minItems": 1}, {"enum": words}]},
        "mode": {"enum": list(MODES), "description": "observe: it is logged as `would`, and does nothing"},
        "sample": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "description": "the share of mail"},
        "until": {"type": "string", "description": "when it ends: 2027-01-31, or with a time"},
        "on_error": {"enum": list(ON_ERROR), "description": "what happens when it can't be asked"},
    }
    rule = {
        "type": "object",
        "properties": properties,
        "required": ["id", "then"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": rule, "description": "What should happen to which mail."}


def lists_schema() -> dict[str, Any]:
    """Return the schema of `lists`."""
    texts = {"type": "array", "items": {"type": "string"}}
    properties = {
        "type": {"enum": list(TYPES)},
        "items": texts,
        "file": {"type": "string"},
        "zone": {"type": "string"},
        "answers": texts,
    }
    one = {"type": "object", "properties": properties, "required": ["type"], "additionalProperties": False}
    return {"type": "object", "additionalProperties": one, "description": "Lists that rules name."}


def tests_schema() -> dict[str, Any]:
    """Return the schema of `tests`."""
    given: dict[str, Any] = {name: {"description": doc} for name, doc in GIVEN.items()}
    given["client"] |= {
        "type": "object",
        "properties": {name: {} for name in CLIENT},
        "additionalProperties": False,
    }
    expect: dict[str, Any] = {name: {"description": doc} for name, doc in EXPECT.items()}
    expect["verdict"] |= {"enum": list(VERDICTS)}
    one = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "given": {"type": "object", "properties": given, "additionalProperties": False},
            "expect": {
                "type": "object",
                "properties": expect,
                "additionalProperties": False,
                "minProperties": 1,
            },
        },
        "required": ["expect"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": one, "description": "Mail and what the rules must make of it."}


def _condition() -> dict[str, Any]:
    known: dict[str, Any] = {
        name: {"anyOf": [_CONDITION, {"type": "array", "items": _CONDITION, "minItems": 1}]}
        for name in GROUPS
    }
    for fact in FACTS.values():
        known[fact.name] = _of(fact)
    for name in CHECKS:
        known[name] = _of(finding_fact(name, name))
    prefixes = [family.prefix.replace(".", r"\.") for family in FAMILIES]
    prefixes += [f"{name}\\." for name in CHECKS]
    return {
        "type": "object",
        "properties": known,
        "patternProperties": {f"^({'|'.join(prefixes)}).+": {}},
        "additionalProperties": False,
    }


def _of(fact: Fact) -> dict[str, Any]:
    """Return the schema of what stands behind a fact: a value, a list of values, or operators."""
    if fact.kind is Kind.TIME or fact.name == "weekday":
        return {"description": fact.doc}
    operators = {
        row.name: {"description": row.doc, **row.schema}
        for row in OPERATORS.values()
        if fact.kind in row.kinds
    }
    operators["in_list"] = {"type": "string", "description": "is in the list of that name"}
    operators["not"] = {"description": "the opposite"}
    if fact.many:
        operators["every"] = {"description": "holds for every value, and there is one"}
    mapping = {"type": "object", "properties": operators, "additionalProperties": False, "minProperties": 1}
    scalar: dict[str, Any] = {"type": ["string", "number"]}
    if fact.kind is Kind.BOOL:
        scalar = {"type": "boolean"}
    elif fact.words:
        scalar = {"enum": list(fact.words)}
    several = {"type": "array", "items": scalar, "minItems": 1}
    return {"description": fact.doc, "anyOf": [scalar, several, mapping]}
