"""Connections: brokers, Redis, TLS, SASL and the namespace, in one typed place for job, tools and clients.

Secrets come from the environment or from files, never from arguments: a command line is readable in the process list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec


class InvalidConnection(ValueError):
    """A connection setting that cannot be used; the message names the variable and the remedy."""


class Connections(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is. `namespace` prefixes topics, Redis keys and consumer groups."""

    brokers: str = "localhost:9092"
    redis_url: str = "redis://localhost:6379/0"
    namespace: str = ""
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = None
    ssl_cafile: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Connections:
        """Read `RIFFLE_<FIELD>`; `RIFFLE_<FIELD>_FILE` names a file that holds the value."""
        values: dict[str, Any] = {}
        for field in cls.__struct_fields__:
            name = f"RIFFLE_{field.upper()}"
            if f"{name}_FILE" in environ:
                path = Path(environ[f"{name}_FILE"])
                try:
                    values[field] = path.read_text().strip()
                except OSError as error:
                    raise InvalidConnection(
                        f"{name}_FILE names {path}, which cannot be read: {error.strerror}"
                    ) from error
            elif name in environ:
                values[field] = environ[name]
        return cls(**values)

    def topic(self, name: str) -> str:
        return self.namespace + name

    def group(self, name: str) -> str:
        return f"{self.namespace}riffle-{name}"

    @property
    def redis_namespace(self) -> str:
        return f"{self.namespace}riffle:"

    def kafka_python(self) -> dict[str, Any]:
        """Keyword arguments for kafka-python's producers, consumers and admin clients."""
        settings: dict[str, Any] = {
            "bootstrap_servers": self.brokers.split(","),
            "security_protocol": self.security_protocol,
        }
        if self.sasl_mechanism:
            settings |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        if self.ssl_cafile:
            settings["ssl_cafile"] = self.ssl_cafile
        return settings
