"""Where a command connects to, and how it fails: in one plain sentence, with exit code 1.

`RIFFLE_BROKERS`, `RIFFLE_REDIS_URL`, `RIFFLE_NAMESPACE` and the others of schemas.connections win; what they leave open
comes from the local stack (`.riffle/stack.json` in this folder or one above it, or of this checkout), where one is up;
else the defaults.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec
import redis
import typer
from rich.console import Console

from client.errors import InvalidArgument, InvalidEvent, KafkaUnavailable, RankError, RankTimeout, SendFailed
from connect.redis import Nodes
from schemas.connections import Connections, InvalidConnection

_CHECKOUT = Path(__file__).resolve().parents[1]
_REDIS_LIMIT_S = 5.0

out = Console()
err = Console(stderr=True)


class _Stack(msgspec.Struct):
    """The part of the local stack's state file that a command needs."""

    kafka: str | None = None
    redis_url: str | None = None


def connections(environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> Connections:
    """Settings from the environment, then from the local stack. Raises InvalidConnection."""
    stack = _local_stack(folder or Path.cwd())
    defaults: dict[str, str] = {}
    if stack is not None and stack.kafka and not _named(environ, "BROKERS"):
        defaults["brokers"] = stack.kafka
    if stack is not None and stack.redis_url and not _named(environ, "REDIS_URL"):
        defaults["redis_url"] = stack.redis_url
    return Connections.from_environment(environ, **defaults)


def redis_nodes(where: Connections) -> Nodes:
    """Redis with time limits for tools: longer ones than a service would allow."""
    return Nodes(where.redis, _REDIS_LIMIT_S)


def fail(sentence: str) -> NoReturn:
    """End the command with one sentence on stderr and exit code 1."""
    err.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def plainly() -> Iterator[None]:
    """Turn what a user can cause or meet into one sentence, and keep kafka-python's own logging out of the terminal."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        yield
    except (
        InvalidArgument,
        InvalidEvent,
        InvalidConnection,
        KafkaUnavailable,
        SendFailed,
        RankError,
        RankTimeout,
    ) as error:
        fail(str(error))
    except redis.RedisError as error:
        fail(f"Redis does not answer ({error}): is it up, and is RIFFLE_REDIS_URL right?")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _named(environ: Mapping[str, str], field: str) -> bool:
    return f"RIFFLE_{field}" in environ or f"RIFFLE_{field}_FILE" in environ


def _local_stack(folder: Path) -> _Stack | None:
    for place in (folder, *folder.parents, _CHECKOUT):
        try:
            return msgspec.json.decode((place / ".riffle" / "stack.json").read_bytes(), type=_Stack)
        except (OSError, msgspec.DecodeError):
            continue
    return None
