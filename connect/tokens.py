"""OAUTHBEARER tokens for kafka-python: the client-credentials grant, a token reused until shortly before it expires."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from kafka.net.sasl.oauth import AbstractTokenProvider

from connect.secrets import Secret

_LIMIT_S = 10
_MARGIN_S = 30.0  # a token is renewed so long before its end
_LARGEST = 1 << 20


class TokenUnavailable(ConnectionError):
    """The token endpoint did not give a token; the message has its address and no secret."""


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]
    """Asks `url` for a token as `client_id`. Thread-safe. An https endpoint is checked against the machine's authorities."""

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: Secret,
        scope: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._url, self._client_id, self._secret, self._scope = url, client_id, client_secret, scope
        self._clock = clock
        self._lock = threading.Lock()
        self._token, self._renew_at = "", 0.0

    def token(self) -> str:
        """A token that holds for a while. Raises TokenUnavailable."""
        with self._lock:
            if self._clock() >= self._renew_at:
                self._token, lives_s = self._ask()
                self._renew_at = self._clock() + max(0.0, lives_s - _MARGIN_S)
            return self._token

    def _ask(self) -> tuple[str, float]:
        """A new token and how many seconds it lives."""
        pair = f"{self._client_id}:{self._secret.read()}".encode()
        form = {"grant_type": "client_credentials", **({"scope": self._scope} if self._scope else {})}
        request = urllib.request.Request(
            self._url,
            data=urllib.parse.urlencode(form).encode(),
            headers={"Authorization": f"Basic {base64.b64encode(pair).decode()}", "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_LIMIT_S) as response:
                answer: dict[str, Any] = json.loads(response.read(_LARGEST))
            return str(answer["access_token"]), float(answer["expires_in"])
        except urllib.error.HTTPError as error:
            error.close()
            raise TokenUnavailable(
                f"the token endpoint {self._url} answered {error.code}: are id and secret right?"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TokenUnavailable(f"the token endpoint {self._url} gave no token: {type(error).__name__}") from error
