"""An entry of the pipeline: the name of a plugin, what every plugin understands, and its own options."""

from typing import Annotated, Any, Literal

from pydantic import Field

from relayproxy.config.base import Model
from relayproxy.config.quantities import Duration
from relayproxy.config.values import Name, one_or_many


class When(Model):
    """A condition: each key a value or a list of them; a key that is left out holds for all mail."""

    listener: Annotated[tuple[Name, ...], one_or_many] = ()
    """Names of listeners."""
    authenticated: Annotated[tuple[bool, ...], one_or_many] = ()
    """Whether the client has logged in."""
    direction: Annotated[tuple[Literal["inbound", "outbound", "internal"], ...], one_or_many] = ()
    """`inbound`: a stranger to our domains; `outbound`: a trusted client to elsewhere; `internal`: to our own."""
    tls: Annotated[tuple[bool, ...], one_or_many] = ()
    """Whether the connection is encrypted."""


class Common(Model):
    """The keys that every plugin takes beside its own."""

    when: When | None = None
    """For which mail the plugin is asked. Left out: as the plugin says."""
    mode: Literal["enforce", "observe"] = "enforce"
    """`observe`: it runs, is logged and counted as "would have", and decides nothing."""
    on_error: Literal["defer", "skip", "reject", "hold"] = "defer"
    """What becomes of the mail when the plugin fails: 451, as if it were not there, 554, or held."""
    timeout: Duration | None = None
    """How long one call may take. Left out: as the plugin says."""


class PipelineEntry(Common):
    """One plugin in its place: `name`, the common keys, and `options` as they were written."""

    name: Name
    """How the plugin is called."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its own options."""
