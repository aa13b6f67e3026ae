"""How Redis is reached: one server, a Cluster, or a master named by Sentinels; under which user, and by TLS or not."""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from redis.connection import parse_url
from redis.credentials import CredentialProvider

from connect.secrets import InvalidConnection, Secret

SINGLE, CLUSTER, SENTINEL = "single", "cluster", "sentinel"
MODES = (SINGLE, CLUSTER, SENTINEL)


class Node(NamedTuple):
    host: str
    port: int


class RedisAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach Redis. `url` is redis:// or rediss:// (TLS) with one or, for a Cluster and Sentinels, several host:port.

    Credentials stand beside it, never in it. `cafile` (PEM) replaces the machine's authorities. Sentinels are asked under
    `sentinel_password`, by TLS where the master is. Raises InvalidConnection.
    """

    url: str
    mode: str = SINGLE
    master: str | None = None
    username: str | None = None
    password: Secret | None = None
    sentinel_password: Secret | None = None
    cafile: str | None = None

    def __post_init__(self) -> None:
        check_redis(self)

    @property
    def nodes(self) -> list[Node]:
        """The addresses of the URL: of Sentinels those of the Sentinels."""
        default = 26_379 if self.mode == SENTINEL else 6_379
        parts = (urlsplit(f"//{address}") for address in urlsplit(self.url).netloc.split(","))
        return [Node(part.hostname or "localhost", part.port or default) for part in parts]

    def settings(self, limit_s: float) -> dict[str, Any]:
        """Keyword arguments of a connection, but host and port. Every step of it is limited."""
        url = urlsplit(self.url)
        found: dict[str, Any] = dict(parse_url(f"{url.scheme}://localhost{url.path}?{url.query}"))
        for name in ("host", "port", "connection_class"):
            found.pop(name, None)
        # Without the library's name and version: telling them costs two trips and a right that nothing else needs.
        found |= {"socket_timeout": limit_s, "socket_connect_timeout": limit_s, "lib_name": None, "lib_version": None}
        if self.password is not None:
            found["credential_provider"] = _Credentials(self.username, self.password)
        return found | self.tls()

    def sentinel_settings(self, limit_s: float) -> dict[str, Any]:
        credentials = (
            {}
            if self.sentinel_password is None
            else {"credential_provider": _Credentials(None, self.sentinel_password)}
        )
        secure = {"ssl": True, **self.tls()} if self.uses_tls else {}
        return {"socket_timeout": limit_s, "socket_connect_timeout": limit_s, **credentials, **secure}

    @property
    def uses_tls(self) -> bool:
        return self.url.startswith("rediss://")

    def tls(self) -> dict[str, Any]:
        if not self.uses_tls:
            return {}
        return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": self.cafile}


def check_redis(access: RedisAccess) -> None:
    """Raises InvalidConnection naming the variable, and never a password that stands in the wrong place."""
    try:
        url = urlsplit(access.url)
        hosts = url.netloc.split(",")
        ports = [urlsplit(f"//{host}").port for host in hosts]
        database = int(url.path.strip("/") or 0)
    except ValueError:
        raise InvalidConnection(
            "RIFFLE_REDIS_URL is no address: write redis://host:6379/0, or rediss:// for TLS"
        ) from None
    if "@" in url.netloc or "password=" in url.query:
        raise InvalidConnection(
            "RIFFLE_REDIS_URL holds credentials, which lists of processes and logs would show: put them into "
            "RIFFLE_REDIS_USERNAME and RIFFLE_REDIS_PASSWORD, or into a file named by RIFFLE_REDIS_PASSWORD_FILE"
        )
    if url.scheme not in ("redis", "rediss") or not all(hosts) or 0 in ports:
        raise InvalidConnection("RIFFLE_REDIS_URL must be redis://host:port or, for TLS, rediss://host:port")
    if access.mode not in MODES:
        raise InvalidConnection(f"RIFFLE_REDIS_MODE is {access.mode}: it must be one of {', '.join(MODES)}")
    if access.mode == SINGLE and len(hosts) > 1:
        raise InvalidConnection("RIFFLE_REDIS_URL names several hosts: set RIFFLE_REDIS_MODE to cluster or sentinel")
    if access.mode == CLUSTER and database:
        raise InvalidConnection("RIFFLE_REDIS_URL names a database, and a Redis Cluster has only 0: leave it out")
    if (access.mode == SENTINEL) != bool(access.master):
        raise InvalidConnection("RIFFLE_REDIS_SENTINEL_MASTER belongs to RIFFLE_REDIS_MODE=sentinel: set both or none")
    if access.sentinel_password is not None and access.mode != SENTINEL:
        raise InvalidConnection("RIFFLE_REDIS_SENTINEL_PASSWORD is set, but RIFFLE_REDIS_MODE is not sentinel")
    if access.username and access.password is None:
        raise InvalidConnection(
            "RIFFLE_REDIS_USERNAME is set without RIFFLE_REDIS_PASSWORD or RIFFLE_REDIS_PASSWORD_FILE"
        )
    if access.cafile and not access.uses_tls:
        raise InvalidConnection(
            "RIFFLE_REDIS_CAFILE is set, but RIFFLE_REDIS_URL is not rediss://: TLS would not be used"
        )


class _Credentials(CredentialProvider):
    """Read anew for each connection, so that a rotated password needs no restart."""

    def __init__(self, username: str | None, password: Secret) -> None:
        self._username, self._password = username, password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password.read()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()
