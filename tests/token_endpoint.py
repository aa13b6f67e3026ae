"""A token endpoint: the client-credentials grant, signed tokens, and the keys by which a broker checks them."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

AUDIENCE = "kafka"


class TokenEndpoint:
    """`asked` holds the form of each request that was granted; `lives_s` is how long its tokens hold."""

    def __init__(self, client_id: str, secret: str, lives_s: int = 300) -> None:
        self._basic = "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        self._client_id, self.lives_s = client_id, lives_s
        self._key = rsa.generate_private_key(65_537, 2_048)
        self.asked: list[dict[str, str]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, endpoint.keys())

            def do_POST(self) -> None:
                form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
                if self.headers["Authorization"] != endpoint._basic:
                    self._answer(401, {"error": "invalid_client"})
                    return
                endpoint.asked.append(form)
                token = endpoint.token(form.get("scope", ""))
                self._answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": endpoint.lives_s})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing to standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, scope: str) -> str:
        now = int(time.time())
        claims = {"sub": self._client_id, "aud": AUDIENCE, "iat": now, "exp": now + self.lives_s, "scope": scope}
        head = ".".join(_text(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "k1"}, claims))
        return f"{head}.{_text(self._key.sign(head.encode(), padding.PKCS1v15(), SHA256()))}"

    def keys(self) -> dict[str, Any]:
        public = self._key.public_key().public_numbers()
        modulus, exponent = (_text(n.to_bytes((n.bit_length() + 7) // 8, "big")) for n in (public.n, public.e))
        return {"keys": [{"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig", "n": modulus, "e": exponent}]}


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
