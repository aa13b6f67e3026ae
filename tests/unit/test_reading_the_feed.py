"""What docs/reading-the-feed.md promises other languages is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from schemas import headers, topics
from schemas.event import Reason
from schemas.keys import features_redis_key, id_hash, list_redis_key, popular_redis_key
from schemas.redis_layout import FEATURES_TTL_MS, LIST_TTL_MS, version

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reading-the-feed.md").read_text()


def test_the_hash_vectors_are_right() -> None:
    vectors = re.findall(r"^\| `(.+)` \| `([0-9a-f]{16})` \|$", PAGE, flags=re.M)
    assert len(vectors) >= 4
    assert all(f"{id_hash(event_id):016x}" == digest for event_id, digest in vectors)


def test_the_key_examples_are_right() -> None:
    assert f"`{list_redis_key('riffle:', 'u:alice', 'home')}`" in PAGE
    assert f"`{features_redis_key('riffle:', 's:s1')}`" in PAGE
    assert f"`{list_redis_key('eu-riffle:', 'u:a{b}%', 'cart')}`" in PAGE
    assert popular_redis_key("<ns>riffle:", "<surface>") in PAGE
    assert version(1, 42) in PAGE
    assert LIST_TTL_MS == FEATURES_TTL_MS == 7 * 86_400_000, "the page says 7 days"


def test_every_topic_header_and_reason_is_named() -> None:
    assert [spec.name for spec in topics.TOPICS if f"`{spec.name}`" not in PAGE] == []
    names = [value for name, value in vars(headers).items() if name.isupper()]
    assert [name for name in names if f"`{name}`" not in PAGE] == []
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in PAGE] == []


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
