"""Errors of the local Realtime server.

    RealtimeError
    ├── RealtimeStartError      the server cannot start: bad settings, database not fit for it
    ├── FrameError              a frame that cannot be decoded; logged and ignored
    ├── ChannelRefused          a join, or a new token of a channel, that is refused
    │   └── TokenError          … because of the API key or JWT
    ├── FeedEnded               the replication stream stopped; the feed reconnects
    └── SubscriptionError       a `postgres_changes` binding that cannot be served
        └── FilterError         … because of its filter

Texts of ChannelRefused and SubscriptionError go to clients word for word: they are part of the protocol.
"""


class RealtimeError(Exception):
    """Anything this server raises on purpose."""


class RealtimeStartError(RealtimeError):
    """The server cannot start. The message names the cause and the fix."""


class FrameError(RealtimeError):
    """A frame that is not JSON, has the wrong shape or lacks a field."""


class ChannelRefused(RealtimeError):
    """A caller that may not join a topic, or may no longer be on it.

    A join is answered with `<code>: <text>`, a new token with `text` alone.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class TokenError(ChannelRefused):
    """A key or JWT that is refused.

    `handshake_text` is what a refused upgrade answers: the text, without the seconds since expiry.
    """

    def __init__(self, code: str, text: str, *, handshake_text: str | None = None) -> None:
        super().__init__(code, text)
        self.handshake_text = handshake_text or text


class FeedEnded(RealtimeError):
    """Postgres ended the replication stream; the message is its reason."""


class SubscriptionError(RealtimeError):
    """A binding that cannot be served; the message is the text of the `system` error."""


class FilterError(SubscriptionError):
    """A filter that cannot be parsed."""
