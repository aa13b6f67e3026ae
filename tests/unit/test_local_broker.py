"""The local broker's cluster id: one that Kafka's command line takes as a value."""

from __future__ import annotations

import uuid

import pytest

from local import broker


def test_an_id_with_a_leading_dash_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([uuid.UUID(bytes=b"\xf8" + bytes(15)), uuid.UUID(bytes=b"\x00" + bytes(15))])
    monkeypatch.setattr(broker.uuid, "uuid4", lambda: next(draws))
    assert broker._cluster_id() == "A" * 22
