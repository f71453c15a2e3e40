"""What the DKIM commands share: where the keys are, how one is written, and who is asked about them.

Must not know what a command does with them.
"""

import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relayproxy.cli.common import fail, find_config

if TYPE_CHECKING:
    from relayproxy.builtin._dkim_files import KeyFile
    from relayproxy.builtin.dkim_sign import DkimSignSettings
    from relayproxy.config.load import Loaded
    from relayproxy.mailauth.dkim_keys import SigningKey
    from relayproxy.model.endpoint import Endpoint
    from relayproxy.resolver import CachingResolver

FOLDER_OPTION = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="The folder of keys; without it, what dkim_sign has in the configuration.",
)
OUTPUT_OPTION = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print it."
)


# -- where the keys are -----------------------------------------------------------------------------------------


def loaded_as_far_as_possible(path: Path | None) -> "Loaded | None":
    """Return the configuration as far as it can be read: a mistake elsewhere must not hide the keys."""
    from relayproxy.config import load as loader

    place = find_config(path)
    return loader.load(place) if place else None


def signing_settings(loaded: "Loaded | None") -> "list[DkimSignSettings]":
    """Return the settings of dkim_sign."""
    from relayproxy.builtin.dkim_sign import DkimSignSettings

    return [
        options
        for _, _, options in (loaded.choices if loaded else ())
        if isinstance(options, DkimSignSettings)
    ]


def configured_folders(loaded: "Loaded | None") -> list[Path]:
    """Return the folders of keys that the configuration names."""
    if loaded is None:
        return []
    named = [options.keys for options in signing_settings(loaded) if options.keys]
    return [loaded.folder / Path(name).expanduser() for name in named]


def configured_folder(path: Path | None) -> Path:
    """Return the folder of keys of the configuration, or `keys` where it names none."""
    return next(iter(configured_folders(loaded_as_far_as_possible(path))), Path("keys"))


def files_of(loaded: "Loaded | None") -> "list[KeyFile]":
    """Return the keys that the configuration's dkim_sign signs with. Raises KeyFault."""
    from relayproxy.builtin.dkim_sign import key_files

    if loaded is None:
        return []
    return [file for options in signing_settings(loaded) for file in key_files(options, loaded.folder)]


def all_keys(path: Path | None, folder: Path | None) -> "list[KeyFile]":
    """Return all keys that sign; ends the program if there are none, or one can't be named."""
    from relayproxy.builtin._dkim_files import find_keys
    from relayproxy.mailauth.dkim_keys import KeyFault

    try:
        if folder is not None:
            return find_keys(folder)
        files = files_of(loaded_as_far_as_possible(path))
    except KeyFault as fault:
        fail(fault)
    if not files:
        fail("there is no dkim_sign in a configuration; name one with -C, or a folder of keys with --folder")
    return files


def resting_keys(path: Path | None, folder: Path | None) -> "list[KeyFile]":
    """Return the keys of the folders that wait or are retired; ends the program if one can't be named."""
    from relayproxy.builtin._dkim_files import find_retired, find_waiting
    from relayproxy.mailauth.dkim_keys import KeyFault

    folders = [folder] if folder is not None else configured_folders(loaded_as_far_as_possible(path))
    try:
        return [file for one in folders for files in (find_waiting(one), find_retired(one)) for file in files]
    except KeyFault as fault:
        fail(fault)


# -- writing ----------------------------------------------------------------------------------------------------


def write_key(path: Path, key: "SigningKey") -> None:
    """Write a key where no file is yet, whole or not at all, readable by its owner alone. Raises OSError.

    Made by root it belongs to the owner of the folder that holds all keys, as whom relayproxy runs.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(key.pem())
            out.flush()
            os.fsync(file)
        if os.geteuid() == 0:
            owner = path.parent.parent.stat()
            for one in (path.parent, draft):
                os.chown(one, owner.st_uid, owner.st_gid)
        path.hardlink_to(draft)  # unlike a rename, this never puts one file in place of another
    finally:
        draft.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- who is asked -----------------------------------------------------------------------------------------------


def _server(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> "list[Endpoint]":
    from pydantic_core import PydanticCustomError

    from relayproxy.config.values import parse_endpoint

    try:
        servers = [parse_endpoint(value, default_port=53) for value in values]
        for server in servers:
            ip_address(server.host)
    except PydanticCustomError as error:
        raise click.BadParameter(error.message()) from error
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return servers


SERVER_OPTION = click.option(
    "--server",
    "servers",
    multiple=True,
    callback=_server,
    help="The name server to ask, as ADDRESS or ADDRESS:PORT; without it, those of the configuration.",
)


@asynccontextmanager
async def asking(loaded: "Loaded | None", servers: "Sequence[Endpoint]") -> "AsyncIterator[CachingResolver]":
    """Make a resolver of its own, which has no old answers."""
    from relayproxy.resolver import CachingResolver

    if not servers and loaded is not None and loaded.config is not None:
        servers = loaded.config.dns.servers
    resolver = CachingResolver(tuple((server.host, server.port) for server in servers))
    try:
        yield resolver
    finally:
        await resolver.close()
