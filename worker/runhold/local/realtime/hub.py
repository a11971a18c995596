"""Groups: which channels are on a topic, and sending to all of them."""

from typing import Protocol, TypeAlias

from runhold.local.realtime.frames import Broadcast

# Topic without prefix, and whether it is private: public and private channels of one name never hear each
# other.
Group: TypeAlias = tuple[str, bool]


class Member(Protocol):
    """A joined channel, as the hub sees it."""

    def receive(self, message: Broadcast) -> None:
        """Send the message to the client, if it may read broadcasts."""
        ...

    def receive_presence(self, diff: str) -> None:
        """Send a `presence_diff` to the client, if it may read presence. `diff`: JSON text."""
        ...


class Hub:
    """All members of all groups."""

    def __init__(self) -> None:
        # Dictionaries as ordered sets: members are served in the order of their joins.
        self._members: dict[Group, dict[Member, None]] = {}

    def join(self, group: Group, member: Member) -> None:
        """Start to receive what is published to the group."""
        self._members.setdefault(group, {})[member] = None

    def leave(self, group: Group, member: Member) -> None:
        """Stop receiving. Harmless if it never joined."""
        members = self._members.get(group, {})
        members.pop(member, None)
        if not members:
            self._members.pop(group, None)

    def has_members(self, group: Group) -> bool:
        """Whether anybody would hear what is published to the group now."""
        return group in self._members

    def publish(self, group: Group, message: Broadcast, *, without: Member | None = None) -> None:
        """Hand the message to every member, except the one that sent it."""
        for member in list(self._members.get(group, ())):
            if member is not without:
                member.receive(message)

    def publish_presence(self, group: Group, diff: str) -> None:
        """Hand a change of presence to every member. `diff`: JSON text."""
        for member in list(self._members.get(group, ())):
            member.receive_presence(diff)
