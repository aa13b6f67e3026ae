"""Redis layout: how lists and features are stored, and the one script that stores them.

    hash  <namespace>list:{<key>}:<surface>    version, list      the newest RankedList of a user on a surface
    hash  <namespace>features:{<key>}          version, features  the user's newest SessionFeatures
    hash  <namespace>popular:<surface>         items              a JSON list of item ids, for users without a list
    hash  <namespace>item-features:v<row version>:{<level>|<name>}
                                               version, row       the newest counters of an item or group (features_row)
    hash  <namespace>top-list:{<kind>|<name>}  version, list      the newest TopList (top_lists)
    hash  <namespace>experiment:{<experiment>|<arm>|<surface>|<segment>}
                                               version, arm       the newest ArmMetrics (experiment_metrics)

`version` is what compare-and-set compares: 32 lower-case hex digits, so that text order is number order.

Calling CAS_SCRIPT (EVAL or EVALSHA), for n hashes of one user:

    KEYS  key_1 … key_n                 the features key first, then a list key per surface; n may be 1
    ARGV  version, ttl_ms, field_1, body_1, … field_n, body_n
    →     integer: how many of the n hashes were set

Each hash is judged alone: it is set where it is missing or its version is lower; an equal version keeps what came
first. `cas_arguments` builds KEYS and ARGV. All keys of a user share a hash tag (schemas.keys), so one call suits a
Redis Cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

VERSION_FIELD = "version"
LIST_FIELD = "list"
FEATURES_FIELD = "features"
POPULAR_FIELD = "items"
ROW_FIELD = "row"
ARM_FIELD = "arm"
TOP_LIST_FIELD = "list"

_DAY_MS = 86_400_000
LIST_TTL_MS = 7 * _DAY_MS
FEATURES_TTL_MS = 7 * _DAY_MS
ARM_TTL_MS = 90 * _DAY_MS
ROW_TTL_MS = 29 * _DAY_MS  # nothing is counted for longer than 28 days
TOP_LIST_TTL_MS = 29 * _DAY_MS  # four half-lives of the longest, and what has not changed since says little

CAS_SCRIPT = """\
local set = 0
for i, key in ipairs(KEYS) do
  local stored = redis.call('HGET', key, 'version')
  if not stored or stored < ARGV[1] then
    redis.call('HSET', key, 'version', ARGV[1], ARGV[2 * i + 1], ARGV[2 * i + 2])
    redis.call('PEXPIRE', key, ARGV[2])
    set = set + 1
  end
end
return set
"""

_LIMIT = 2**64


class Entry(NamedTuple):
    """One hash to write: `field` is LIST_FIELD or FEATURES_FIELD and `body` its JSON; or ROW_FIELD and a
    packed row; or TOP_LIST_FIELD and its JSON."""

    key: str
    field: str
    body: bytes


def version(state_epoch: int, list_no: int) -> str:
    """The stored version of what a user's record number `list_no` wrote.

    Raises ValueError where a number is negative or does not fit into 64 bits: its text would sort wrongly.
    """
    if not (0 <= state_epoch < _LIMIT and 0 <= list_no < _LIMIT):
        raise ValueError(f"state_epoch {state_epoch} and list_no {list_no} must fit into 64 bits without sign")
    return f"{state_epoch:016x}{list_no:016x}"


def cas_arguments(at: str, ttl_ms: int, entries: Sequence[Entry]) -> tuple[list[str], list[str | int | bytes]]:
    """KEYS and ARGV of one call of CAS_SCRIPT; `at` is a `version`.

    Pass them as `evalsha(sha, len(keys), *keys, *argv)`.
    """
    argv: list[str | int | bytes] = [at, ttl_ms]
    for entry in entries:
        argv += (entry.field, entry.body)
    return [entry.key for entry in entries], argv
