"""Kafka record headers that Riffle writes and reads. Values are UTF-8 text."""

from __future__ import annotations

# On `events-dlq` and `events-late`: why the record is here and where it stood. The value is the original, byte for byte.
REASON = "riffle-reason"
DETAIL = "riffle-detail"
TOPIC = "riffle-topic"
# Instead of a value that is too large to be kept: its bytes and their SHA-256, in hex.
LENGTH = "riffle-length"
SHA256 = "riffle-sha256"

# Where and when a record was first appended. Also on records put back on `events` (repaired, rerouted or forwarded), so
# that lateness is still judged by the original time and the sender's own (partition, offset) stays the freshness token.
PARTITION = "riffle-partition"
OFFSET = "riffle-offset"
APPEND_MS = "riffle-append-ms"

# On records put back on `events`: `replay` (repaired by an operator), `reroute` (travelled under another key than its
# body names) or `alias` (an anonymous session that belongs to a user by now).
VIA = "riffle-via"
