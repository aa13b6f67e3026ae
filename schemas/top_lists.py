"""Top lists: what is chosen together with an item, and what is chosen most in a context. By the job top-lists.

topic `top-lists`   key  <kind>|<name>       value  TopList as JSON; none once nothing is left of it
Redis               see redis_layout

item|shoe-7     items that sessions chose together with shoe-7
device|mobile   items that sessions chose there; likewise geo|de, hour|17 (UTC) and all|
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Kind = Literal["item", "device", "geo", "hour", "all"]
KINDS: tuple[str, ...] = get_args(Kind)


class TopList(msgspec.Struct, frozen=True):
    """`items` are ordered by `weights`, heaviest first: sessions, of which one counts half a half-life later. A weight is what is
    certain: never more than what was counted, and exactly that while the list had room for all. (state_epoch, list_no) orders the
    lists of one key."""

    state_epoch: int
    list_no: int
    window_end_ms: int  # of the slice to whose end the weights were brought down
    half_life_ms: int
    total: float  # of all that was counted under the key, whether listed or not
    items: list[str]
    weights: list[float]


def list_key(kind: str, name: str) -> str:
    return f"{kind}|{name}"


encode_top_list = msgspec.json.Encoder().encode
decode_top_list = msgspec.json.Decoder(TopList).decode
