"""How users are named: no two kinds of id collide, and a user's Redis keys land on one node."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.keys import features_redis_key, id_hash, is_anonymous, list_redis_key, user_key

NASTY = ["alice", "a}b", "{a}", "}{", "%7B", "{", "a|b:c", "鞋"]


def hash_tag(redis_key: str) -> str:
    """What Redis Cluster hashes: between the first brace and the next closing one."""
    start = redis_key.index("{")
    return redis_key[start + 1 : redis_key.index("}", start + 1)]


def test_a_user_and_a_session_of_one_name_have_two_keys() -> None:
    assert user_key("x", "s") == "u:x"
    assert user_key(None, "x") == "s:x"


@pytest.mark.parametrize(("key", "anonymous"), [("s:x", True), ("u:x", False), ("u:s:x", False), ("p:events:3", False)])
def test_only_sessions_are_anonymous(key: str, anonymous: bool) -> None:
    assert is_anonymous(key) is anonymous


@pytest.mark.parametrize("name", NASTY)
def test_all_keys_of_a_user_share_a_hash_tag(name: str) -> None:
    key = f"u:{name}"
    tags = {
        hash_tag(features_redis_key("ns:", key)),
        hash_tag(list_redis_key("ns:", key, "home")),
        hash_tag(list_redis_key("", key, "cart")),
    }
    assert len(tags) == 1 and tags != {""}


@given(st.text(max_size=8), st.text(max_size=8))
def test_two_users_never_share_a_redis_key(one: str, other: str) -> None:
    same = list_redis_key("", f"u:{one}", "home") == list_redis_key("", f"u:{other}", "home")
    assert same == (one == other)


def test_an_id_hash_is_the_beginning_of_sha_256() -> None:
    """Contract: services in any language compute it."""
    assert f"{id_hash('e-1'):016x}" == hashlib.sha256(b"e-1").hexdigest()[:16]
