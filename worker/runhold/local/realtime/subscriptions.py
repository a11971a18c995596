"""Who wants which changes: the registry, and the check of bindings against the database."""

from typing import Protocol

import psycopg
from psycopg import sql

from runhold.local.realtime.bindings import ANY, Binding
from runhold.local.realtime.catalog import TypeInfo, describe_table, describe_types, published_tables
from runhold.local.realtime.database import Session
from runhold.local.realtime.errors import SubscriptionError
from runhold.local.realtime.feed import CHANGES_PUBLICATION
from runhold.local.realtime.filters import Condition
from runhold.local.realtime.pgoutput import ChangeKind
from runhold.local.realtime.tokens import Claims


class Subscriber(Protocol):
    """One joined channel, as the change feed sees it."""

    @property
    def claims(self) -> Claims:
        """Whose rights apply now."""
        ...

    def push_change(self, binding_ids: list[int], data: str) -> None:
        """Send one change: the ids of the bindings it matches, and its JSON text."""
        ...


class Subscription:
    """One binding of one channel. `active` ends when the channel leaves or its bindings are refused."""

    def __init__(self, subscriber: Subscriber, binding: Binding) -> None:
        self.subscriber = subscriber
        self.binding = binding
        self.active = True


class SubscriptionRegistry:
    """All subscriptions, found by the names of a table."""

    def __init__(self) -> None:
        # Dictionaries as ordered sets: events reach channels in the order of their joins.
        self._by_names: dict[tuple[str, str], dict[Subscription, None]] = {}

    def add(self, subscription: Subscription) -> None:
        """Start to match."""
        names = (subscription.binding.schema, subscription.binding.table)
        self._by_names.setdefault(names, {})[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        """Stop to match, also for changes being worked on. Harmless if it was removed before."""
        subscription.active = False
        names = (subscription.binding.schema, subscription.binding.table)
        found = self._by_names.get(names, {})
        found.pop(subscription, None)
        if not found:
            self._by_names.pop(names, None)

    def matching(self, schema: str, table: str, kind: ChangeKind) -> list[Subscription]:
        """Subscriptions to this kind of change of this table, filters not yet applied."""
        return [
            subscription
            for names in ((schema, table), (schema, ANY), (ANY, table), (ANY, ANY))
            for subscription in self._by_names.get(names, ())
            if subscription.binding.event in (kind, ANY)
        ]


async def check_binding(session: Session, binding: Binding, role: str) -> None:
    """Check that a binding can be served to `role`: tables published, columns readable, filter values fit
    their types.

    Raises SubscriptionError with the text for the client, `psycopg.OperationalError` if the database is away.
    """
    tables = await published_tables(session, CHANGES_PUBLICATION, binding.schema, binding.table)
    if not tables:
        raise SubscriptionError(
            "Unable to subscribe to changes with given parameters."
            f" Please check Realtime is enabled for the given connect parameters: {binding.describe()}"
        )
    try:
        await _check_role(session, role)
        if binding.conditions or binding.selected:
            for oid in tables:
                await _check_columns(session, oid, binding, role)
    except psycopg.OperationalError as exc:
        if exc.sqlstate is None:
            raise
        raise _refusal(binding, exc) from exc
    except psycopg.Error as exc:
        raise _refusal(binding, exc) from exc


async def _check_role(session: Session, role: str) -> None:
    rows = await session.run(
        sql.SQL("select exists (select from pg_catalog.pg_roles where rolname = {})").format(
            sql.Literal(role)
        )
    )
    if not rows[0][0][0]:
        raise _Invalid(f'role "{role}" does not exist')


async def _check_columns(session: Session, oid: int, binding: Binding, role: str) -> None:
    table = await describe_table(session, oid, {role})
    if table is None:
        return  # dropped this moment: as if it were not published
    readable = table.readable(role)
    by_name = {column.name: column for column in table.columns if column.name in readable}
    for name in sorted(binding.selected or ()):
        if name not in by_name:
            raise _Invalid(f"invalid column for select {name}")
    for condition in binding.conditions:
        column = by_name.get(condition.column)
        if column is None:
            raise _Invalid(f"invalid column for filter {condition.column}")
        [type_info] = await describe_types(session, [(column.type_oid, column.type_modifier)])
        if type_info is not None:
            await _check_condition(session, condition, type_info)


async def _check_condition(session: Session, condition: Condition, type_info: TypeInfo) -> None:
    # On no value at all: this parses the value and finds the operator.
    await session.run(sql.SQL("select {}").format(condition.expression(type_info, None)))
    if condition.operator in ("match", "imatch"):
        # … but a pattern is compiled only when there is something to match.
        await session.run(sql.SQL("select '' ~ {}").format(sql.Literal(condition.value)))


class _Invalid(psycopg.errors.RaiseException):
    """A refusal of ours in the shape of the one hosted projects raise in SQL."""

    sqlstate = "P0001"


def _refusal(binding: Binding, error: psycopg.Error) -> SubscriptionError:
    message = error.diag.message_primary or str(error)
    kind = next(cls for cls in type(error).__mro__ if cls.__module__ == "psycopg.errors").__name__
    condition = "".join(f"_{char.lower()}" if char.isupper() else char for char in kind).removeprefix("_")
    return SubscriptionError(
        "Unable to subscribe to changes with given parameters."
        " An exception happened so please check your connect parameters:"
        f" {binding.describe()}. Exception: ERROR {error.sqlstate} ({condition}) {message}"
    )
