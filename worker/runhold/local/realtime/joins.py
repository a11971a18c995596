"""What a client asks for when it joins a topic, and whether it may."""

import uuid
from dataclasses import dataclass

from runhold.local.realtime.authorization import BROADCAST
from runhold.local.realtime.errors import ChannelRefused
from runhold.local.realtime.jsontext import Json, JsonObject
from runhold.local.realtime.replay import public_refusal


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinRequest:
    """The payload of a join. Parts may be missing, null or of a wrong type, which all mean the default.

    `presence_key`: the client's, or one made up for this join. `replay_asked`: the option `replay` is present,
    whatever its value; `replay`: its value, None if that is no object.
    """

    token: str | None
    private: bool
    receives_own: bool
    acknowledged: bool
    replication_ready: bool
    presence_enabled: bool
    presence_key: str
    replay_asked: bool
    replay: "JsonObject | None"
    bindings: list[JsonObject]

    @classmethod
    def parse(cls, payload: JsonObject) -> "JoinRequest":
        """Read a join's payload."""
        config = _object(payload.get("config"))
        broadcast, presence = _object(config.get("broadcast")), _object(config.get("presence"))
        bindings = config.get("postgres_changes")
        token = payload.get("access_token") or payload.get("user_token")
        replay = broadcast.get("replay")
        return cls(
            token=token if isinstance(token, str) else None,
            private=_flag(config.get("private")),
            receives_own=_flag(broadcast.get("self")),
            acknowledged=_flag(broadcast.get("ack")),
            replication_ready=_flag(broadcast.get("replication_ready")),
            presence_enabled=_flag(presence.get("enabled")),
            presence_key=_key(presence.get("key")),
            replay_asked="replay" in broadcast,
            replay=replay if isinstance(replay, dict) else None,
            bindings=[binding for binding in bindings if isinstance(binding, dict)]
            if isinstance(bindings, list)
            else [],
        )

    def check_replay(self, sub_topic: str, readable: set[str]) -> None:
        """Raise ChannelRefused if the caller asks for a replay that it may not have."""
        if self.replay_asked and BROADCAST not in readable:
            raise no_read_right(sub_topic)
        if self.replay_asked and not self.private:
            raise public_refusal()


def no_read_right(sub_topic: str) -> ChannelRefused:
    """Answer the refusal of a caller that may read nothing on a private topic."""
    return ChannelRefused(
        "Unauthorized", f"You do not have permissions to read from this Channel topic: {sub_topic}"
    )


def _object(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _flag(value: Json) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _key(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float) and value != "":
        return str(value)
    return str(uuid.uuid4())
