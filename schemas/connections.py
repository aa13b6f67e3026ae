"""Connections: brokers, Redis, TLS, SASL and the namespace, in one typed place for job, tools and clients.

Secrets come from the environment or from files, never from arguments: a command line is readable in the process list. Held
here is only where each of them stands (connect.secrets), so that Connections may travel with a job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from connect.redis_access import SINGLE, RedisAccess
from connect.secrets import InvalidConnection, Secret
from connect.tokens import ClientCredentials

__all__ = ["Connections", "InvalidConnection", "Secret"]

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
OAUTHBEARER = "OAUTHBEARER"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER)
SECRETS = ("sasl_password", "redis_password", "redis_sentinel_password")


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is, and who asks. `namespace` prefixes topics, Redis keys and consumer groups.

    For OAUTHBEARER `sasl_username` and `sasl_password` are the client's id and secret at `sasl_token_url`. Raises
    InvalidConnection.
    """

    brokers: str = "localhost:9092"
    namespace: str = ""
    security_protocol: str = "PLAINTEXT"
    ssl_cafile: str | None = None
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: Secret | None = None
    sasl_token_url: str | None = None
    sasl_scope: str | None = None
    redis_url: str = "redis://localhost:6379/0"
    redis_mode: str = SINGLE
    redis_sentinel_master: str | None = None
    redis_username: str | None = None
    redis_password: Secret | None = None
    redis_sentinel_password: Secret | None = None
    redis_cafile: str | None = None

    def __post_init__(self) -> None:
        self._check_kafka()
        _ = self.redis

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **given: str | None) -> Connections:
        """Read `RIFFLE_<FIELD>`; `RIFFLE_<FIELD>_FILE` names a file that holds the value. What is `given` wins."""
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        for field in cls.__struct_fields__:
            name = f"RIFFLE_{field.upper()}"
            in_file = environ.get(f"{name}_FILE")
            if field in values or (in_file is None and name not in environ):
                continue
            if in_file is not None and name in environ:
                raise InvalidConnection(f"{name} and {name}_FILE are both set: unset one of them")
            if field in SECRETS:
                values[field] = Secret(variable=name) if in_file is None else Secret(file=str(Path(in_file).absolute()))
            elif in_file is None:
                values[field] = environ[name]
            else:
                try:
                    values[field] = Path(in_file).read_text().strip()
                except OSError as error:
                    raise InvalidConnection(
                        f"{name}_FILE names {in_file}, which cannot be read: {error.strerror}"
                    ) from error
        found = cls(**values)
        found.require_secrets()
        return found

    def topic(self, name: str) -> str:
        return self.namespace + name

    def group(self, name: str) -> str:
        return f"{self.namespace}riffle-{name}"

    @property
    def redis_namespace(self) -> str:
        return f"{self.namespace}riffle:"

    @property
    def redis(self) -> RedisAccess:
        return RedisAccess(
            url=self.redis_url,
            mode=self.redis_mode,
            master=self.redis_sentinel_master,
            username=self.redis_username,
            password=self.redis_password,
            sentinel_password=self.redis_sentinel_password,
            cafile=self.redis_cafile,
        )

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL_")

    def require_secrets(self) -> None:
        """Raises InvalidConnection where this machine lacks one of the secrets: a worker is to say so when it starts."""
        for name in SECRETS:
            secret: Secret | None = getattr(self, name)
            if secret is not None:
                secret.read()

    def kafka_python(self) -> dict[str, Any]:
        """Keyword arguments for kafka-python's producers, consumers and admin clients. Holds the secret: do not keep or log it."""
        settings: dict[str, Any] = {
            "bootstrap_servers": self.brokers.split(","),
            "security_protocol": self.security_protocol,
        }
        if self.uses_sasl:
            assert self.sasl_username and self.sasl_password
            settings["sasl_mechanism"] = self.sasl_mechanism
            if self.sasl_mechanism == OAUTHBEARER:
                settings["sasl_oauth_token_provider"] = ClientCredentials(
                    self.sasl_token_url or "", self.sasl_username, self.sasl_password, self.sasl_scope
                )
            else:
                settings["sasl_plain_username"] = self.sasl_username
                settings["sasl_plain_password"] = self.sasl_password.read()
        if self.ssl_cafile:
            settings["ssl_cafile"] = self.ssl_cafile
        return settings

    def _check_kafka(self) -> None:
        if self.security_protocol not in PROTOCOLS:
            raise InvalidConnection(
                f"RIFFLE_SECURITY_PROTOCOL is {self.security_protocol}: it must be one of {', '.join(PROTOCOLS)}"
            )
        if self.ssl_cafile and not self.security_protocol.endswith("SSL"):
            raise InvalidConnection(
                f"RIFFLE_SSL_CAFILE is set, but RIFFLE_SECURITY_PROTOCOL is {self.security_protocol}, which is no TLS"
            )
        if not self.uses_sasl:
            if self.sasl_mechanism:
                raise InvalidConnection(
                    f"RIFFLE_SASL_MECHANISM is set, but RIFFLE_SECURITY_PROTOCOL is {self.security_protocol}: "
                    "set it to SASL_SSL"
                )
            return
        if self.sasl_mechanism not in MECHANISMS:
            raise InvalidConnection(
                f"RIFFLE_SASL_MECHANISM is {self.sasl_mechanism or 'not set'}, and {self.security_protocol} needs one of "
                f"{', '.join(MECHANISMS)}"
            )
        if not self.sasl_username:
            raise InvalidConnection(f"RIFFLE_SASL_USERNAME is not set, and {self.sasl_mechanism} needs it")
        if self.sasl_password is None:
            raise InvalidConnection(
                f"RIFFLE_SASL_PASSWORD or RIFFLE_SASL_PASSWORD_FILE is not set, and {self.sasl_mechanism} needs it"
            )
        if self.sasl_mechanism == OAUTHBEARER and not (self.sasl_token_url or "").startswith(("http://", "https://")):
            raise InvalidConnection(
                "RIFFLE_SASL_TOKEN_URL must be the http(s) address that gives tokens to OAUTHBEARER"
            )
