"""Where the cluster of the model service is, and what every process that joins it has to know."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vitdemo.errors import ServiceError, SettingsError

LOOPBACK = "127.0.0.1"
REACHABLE = 3.0
"""Seconds in which a cluster has to take a connection."""

NO_RAY = (
    "Ray is not installed, which VITDEMO_BACKEND=ray and `vitdemo serve` need. Install it with: pip install 'ray[serve]', "
    "or use VITDEMO_BACKEND=local."
)


@dataclass(frozen=True)
class Cluster:
    """A cluster that can be joined."""

    address: str
    """`host:port`."""
    token: str = ""
    """The file that holds Ray's; empty where the environment says, or it is `~/.ray/auth_token`."""
    pid: int = 0
    """Of the `vitdemo serve` that runs it."""


def require_ray() -> None:
    """Raises:
    ServiceError: Ray is not installed.
    """
    # Not of `ray.serve`: to find that is to import ray, which reads its variables once.
    if importlib.util.find_spec("ray") is None:
        raise ServiceError(NO_RAY)


def prepare_ray(environment: MutableMapping[str, str], cluster: Cluster) -> None:
    """Before ray is imported: no usage statistics, the token, and within this machine traffic over loopback."""
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    # Serve's controller looks ten times a second by default, which is a twelfth of a core for nothing.
    environment.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")
    if cluster.token:
        environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN_PATH"] = "token", cluster.token
        environment.pop("RAY_AUTH_TOKEN", None)
    if parts_of(cluster.address)[0] == LOOPBACK:
        # Otherwise Ray takes the address of the network for that of this machine.
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def quiet() -> None:
    """Once ray is loaded: what it would say of its own work is told by the errors of jobs, in words."""
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def parts_of(address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        SettingsError: it has another form.

    >>> parts_of("10.0.0.1:6379")
    ('10.0.0.1', 6379)
    """
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise SettingsError(f"VITDEMO_RAY_ADDRESS={address!r} cannot be used: host:port is expected, as 10.0.0.1:6379.")
    return host, int(port)


def is_reachable(address: str) -> bool:
    """Whether something takes connections there."""
    with suppress(OSError), socket.create_connection(parts_of(address), REACHABLE):
        return True
    return False


def named(address: str) -> Cluster:
    """The cluster that a user has named.

    Raises:
        SettingsError: the address has another form.
        ServiceError: nothing answers there.
    """
    parts_of(address)
    if not is_reachable(address):
        raise ServiceError(
            f"No Ray cluster answers at {address}. Correct VITDEMO_RAY_ADDRESS, or start the service with `vitdemo serve`."
        )
    return Cluster(address)


def remembered() -> Cluster | None:
    """The cluster that a `vitdemo serve` of this user runs on this machine."""
    try:
        path = _memo()
        told = path.lstat()
        # Others could have put a file of this name there, and whoever is named in it may run code here.
        if not stat.S_ISREG(told.st_mode) or told.st_mode & 0o077 or told.st_uid != os.getuid():
            return None
        cluster = Cluster(**json.loads(path.read_text(encoding="utf-8")))
        os.kill(cluster.pid, 0)
        return cluster if is_reachable(cluster.address) else None
    except (OSError, ValueError, TypeError, SettingsError):
        return None


def remember(cluster: Cluster) -> None:
    """For `remembered`, until `forget`."""
    path = _memo()
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(cluster), file)


def forget(cluster: Cluster) -> None:
    if remembered() == cluster:
        _memo().unlink(missing_ok=True)


def _memo() -> Path:
    return Path(tempfile.gettempdir()) / f"vitdemo-serve-{os.getuid() if hasattr(os, 'getuid') else ''}.json"
