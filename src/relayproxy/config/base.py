"""What every model of the configuration shares: strictness, refusals with a code, and where paths start.

Must not know any key of the configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationInfo
from pydantic_core import PydanticCustomError


class Model(BaseModel):
    """A mapping of the configuration: unknown keys are errors, and a value, once made, does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Context:
    """What a value may need to be read: the folder where relative paths start, and the environment."""

    folder: Path = field(default_factory=Path.cwd)
    environ: Mapping[str, str] = field(default_factory=dict)


def context_of(info: ValidationInfo) -> Context:
    """Return the context of a validation; without one, paths start here and the environment is empty."""
    return info.context if isinstance(info.context, Context) else Context()


def refusal(code: str, message: str, hint: str = "") -> PydanticCustomError:
    """Return the error that a validator raises: pydantic adds the path, the loader turns it into a Problem."""
    return PydanticCustomError(code, "{text}", {"text": message, "hint": hint})
