"""An authority of the test's own, and what it signs."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


class Certificates(NamedTuple):
    """`cafile` is what clients trust, `keystore` a PEM file of the server's key and chain as Kafka wants it."""

    cafile: str
    keystore: str
    server: ssl.SSLContext


def make(folder: Path) -> Certificates:
    authority = trustme.CA()
    signed = authority.issue_cert("127.0.0.1", "localhost")
    key = load_pem_private_key(signed.private_key_pem.bytes(), None)
    # Java reads PKCS #8 only.
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    keystore, cafile = folder / "broker.pem", folder / "ca.pem"
    keystore.write_bytes(pem + b"".join(blob.bytes() for blob in signed.cert_chain_pems))
    authority.cert_pem.write_to_path(str(cafile))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    signed.configure_cert(context)
    return Certificates(str(cafile), str(keystore), context)
