"""OAUTHBEARER tokens: reused until shortly before their end, and errors that name the endpoint and no secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connect.secrets import Secret
from connect.tokens import ClientCredentials, TokenUnavailable
from tests.fakes import FakeClock
from tests.token_endpoint import TokenEndpoint


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    made = TokenEndpoint("sender", "the-mark", lives_s=100)
    yield made
    made.close()


def secret(folder: Path, text: str = "the-mark") -> Secret:
    path = folder / "secret"
    path.write_text(text)
    return Secret(file=str(path))


def test_a_token_is_reused_until_shortly_before_its_end(endpoint: TokenEndpoint, tmp_path: Path) -> None:
    clock = FakeClock()
    tokens = ClientCredentials(endpoint.url, "sender", secret(tmp_path), "kafka", clock)
    first = tokens.token()
    clock.now = 69.0
    assert tokens.token() == first
    assert endpoint.asked == [{"grant_type": "client_credentials", "scope": "kafka"}]
    clock.now = 70.0
    tokens.token()
    assert len(endpoint.asked) == 2


def test_who_is_refused_reads_where_and_never_the_secret(endpoint: TokenEndpoint, tmp_path: Path) -> None:
    tokens = ClientCredentials(endpoint.url, "sender", secret(tmp_path, "wrong-mark"))
    with pytest.raises(TokenUnavailable, match=f"{endpoint.url} answered 401") as refused:
        tokens.token()
    assert "mark" not in str(refused.value)


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(TokenUnavailable, match="gave no token"):
        ClientCredentials("http://127.0.0.1:1/token", "sender", secret(tmp_path)).token()
