"""Presence: which channels of a topic are tracked, under which key and with which data."""

import json
import secrets
from dataclasses import dataclass

from runhold.local.realtime import jsontext
from runhold.local.realtime.hub import Group, Hub, Member
from runhold.local.realtime.jsontext import Json, JsonObject


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One tracked channel. `meta`: its data and references, as clients receive them."""

    key: str
    data: str
    meta: JsonObject


class Presence:
    """All tracked channels of all groups. Each change is published to the group at once."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._entries: dict[Group, dict[Member, _Entry]] = {}

    def track(self, group: Group, member: Member, key: str, data: JsonObject) -> None:
        """Store the member's data under its key. Equal data change nothing."""
        entries = self._entries.setdefault(group, {})
        former = entries.get(member)
        # As text: in Python, 1, 1.0 and True are equal.
        text = json.dumps(data, sort_keys=True)
        if former is not None and former.data == text:
            return
        meta: JsonObject = {**data, "phx_ref": secrets.token_urlsafe(9)}
        if former is not None:
            meta["phx_ref_prev"] = former.meta["phx_ref"]
        entry = _Entry(key=key, data=text, meta=meta)
        entries[member] = entry
        self._publish(group, joined=entry, left=former)

    def untrack(self, group: Group, member: Member) -> None:
        """Remove the member's data. Harmless if it is not tracked."""
        entries = self._entries.get(group, {})
        entry = entries.pop(member, None)
        if not entries:
            self._entries.pop(group, None)
        if entry is not None:
            self._publish(group, joined=None, left=entry)

    def state(self, group: Group) -> JsonObject:
        """Answer the data of all tracked members, by key: the payload of `presence_state`."""
        metas: dict[str, list[Json]] = {}
        for entry in self._entries.get(group, {}).values():
            metas.setdefault(entry.key, []).append(entry.meta)
        return {key: {"metas": value} for key, value in metas.items()}

    def _publish(self, group: Group, *, joined: _Entry | None, left: _Entry | None) -> None:
        diff: JsonObject = {"joins": _by_key(joined), "leaves": _by_key(left)}
        self._hub.publish_presence(group, jsontext.dumps(diff))


def _by_key(entry: _Entry | None) -> JsonObject:
    return {} if entry is None else {entry.key: {"metas": [entry.meta]}}
