"""What the client raises. Every message is one plain sentence."""

from __future__ import annotations


class InvalidArgument(ValueError):
    """The caller passed something that can never work; the message names the argument."""


class InvalidEvent(ValueError):
    """An event that the engine would reject; `reason` is its code in schemas.event.Reason, the message names the
    field.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class KafkaUnavailable(ConnectionError):
    """Kafka cannot be reached, or lacks a topic, within the time limit."""


class SendFailed(ConnectionError):
    """A record was not acknowledged within the time limit, and may or may not have been stored."""


class RankTimeout(TimeoutError):
    """No answer to a ranking request within the caller's time limit."""


class RankError(RuntimeError):
    """The engine refused a ranking request; the message says why."""
