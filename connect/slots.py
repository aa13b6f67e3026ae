"""Which node of Redis serves which key, as far as is known, and when to ask again. No connection is made here."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis
from redis.crc import key_slot

from connect.redis_access import CLUSTER, Node, RedisAccess

_LOOK_AGAIN_S = 1.0  # how often a Cluster is asked for its slots at most
_SLOTS = 16_384


class Command(NamedTuple):
    """A command and the key that decides which node takes it."""

    key: str
    words: tuple[str | int | bytes, ...]


class Slots:
    """Which primary serves which slot of a Cluster: the answer to CLUSTER SLOTS, rows of start, end, primary, replicas …"""

    def __init__(self, answer: Sequence[Sequence[Any]], asked: Node) -> None:
        # A node that knows no name of its own answers an empty one: then it is the one that was asked.
        self._ranges = sorted(
            (int(start), int(end), Node(primary[0].decode() or asked.host, int(primary[1])))
            for start, end, primary, *_ in answer
        )
        self._starts = [start for start, _, _ in self._ranges]

    def node_of(self, key: str) -> Node:
        slot = key_slot(key.encode(), _SLOTS)
        at = bisect_right(self._starts, slot) - 1
        if at < 0 or slot > self._ranges[at][1]:
            raise redis.ConnectionError(f"no node of the Redis Cluster serves slot {slot}")
        return self._ranges[at][2]

    @property
    def nodes(self) -> list[Node]:
        return list(dict.fromkeys(node for _, _, node in self._ranges))


class Topology:
    """Of a single Redis, and behind Sentinels, every key has the one node."""

    def __init__(self, access: RedisAccess) -> None:
        self.access = access
        self.slots: Slots | None = None
        self._asked_at = float("-inf")
        self._stale = access.mode == CLUSTER

    def node_of(self, key: str) -> Node:
        """Raises redis.ConnectionError where a Cluster is not known yet or does not serve the key."""
        if self.access.mode != CLUSTER:
            return self.access.nodes[0]
        if self.slots is None:
            raise redis.ConnectionError("the Redis Cluster has not said which node serves which slot")
        return self.slots.node_of(key)

    @property
    def must_ask(self) -> bool:
        return self._stale and time.monotonic() - self._asked_at >= (_LOOK_AGAIN_S if self.slots is not None else 0.0)

    def asked(self) -> None:
        self._asked_at = time.monotonic()

    def learnt(self, slots: Slots) -> None:
        self.slots, self._stale = slots, False

    def doubt(self, at_once: bool = False) -> None:
        """A node failed, or said that a slot has moved."""
        self._stale = self.access.mode == CLUSTER
        if at_once:
            self._asked_at = float("-inf")

    def whom_to_ask(self) -> list[Node]:
        return list(dict.fromkeys([*(self.slots.nodes if self.slots else ()), *self.access.nodes]))

    def by_node(self, commands: Sequence[Command]) -> dict[Node, list[int]]:
        """The numbers of the commands that each node takes."""
        found: dict[Node, list[int]] = {}
        for number, command in enumerate(commands):
            found.setdefault(self.node_of(command.key), []).append(number)
        return found
