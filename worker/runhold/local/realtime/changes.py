"""`postgres_changes`: from one row change to what each subscribed channel is sent.

Order of the checks, for one change: names and event; a primary key it can be checked by; the filters;
row-level security, asked of Postgres as each caller. DELETE skips the last, since there is no row left to ask
about: it carries the key only, when the table has row-level security.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from runhold.local.realtime import jsontext
from runhold.local.realtime.catalog import Table, TypeInfo, describe_table, describe_types
from runhold.local.realtime.database import Session, trusted
from runhold.local.realtime.filters import Condition
from runhold.local.realtime.pgoutput import Change, Relation
from runhold.local.realtime.subscriptions import Subscriber, Subscription, SubscriptionRegistry
from runhold.local.realtime.tokens import Claims
from runhold.local.realtime.values import render_values

logger = logging.getLogger("runhold.realtime.changes")

# 1 MiB as hosted, less the frame around it: realtime-py closes on frames over 1 MiB.
SIZE_LIMIT_BYTES = 1_048_576 - 4096
# What of a row is still sent beyond that.
SMALL_VALUE_BYTES = 64

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_PAYLOAD_TOO_LARGE = "Error 413: Payload Too Large"
_NO_PRIMARY_KEY = "Error 400: Bad Request, no primary key"
_UNAUTHORIZED = "Error 401: Unauthorized"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One message for one channel: the subscriptions it answers, and its JSON text."""

    subscriber: Subscriber
    subscriptions: list[Subscription]
    data: str

    def send(self) -> None:
        """Send it, unless the channel has left while it was being worked on."""
        ids = sorted({subscription.binding.id for subscription in self.subscriptions if subscription.active})
        if ids:
            self.subscriber.push_change(ids, self.data)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A change with all there is to know about it. `types`: of every column in `new` or `old`."""

    change: Change
    table: Table
    types: Mapping[str, TypeInfo]
    new: Mapping[str, str | None] | None
    old: Mapping[str, str | None]
    committed_at: str


class ChangeRouter:
    """Works out deliveries, one change at a time. `session` is its own: policies of users run on it."""

    def __init__(self, session: Session, registry: SubscriptionRegistry) -> None:
        self._session = session
        self._registry = registry
        self._types: dict[int, tuple[Relation, dict[str, TypeInfo]]] = {}
        self._tables: dict[tuple[int, frozenset[str]], Table | None] = {}

    def start_transaction(self) -> None:
        """Look at tables anew: rights and keys are those at the time a transaction is sent."""
        self._tables.clear()

    def is_awaited(self, change: Change) -> bool:
        """Whether any channel has subscribed to such changes."""
        return bool(self._registry.matching(change.relation.schema, change.relation.table, change.kind))

    async def deliveries(self, change: Change, committed_us: int) -> list[Delivery]:
        """What to send for one change, in the order to send it.

        Raises `psycopg.Error` if the database cannot be asked; an error of one caller's policy only silences
        that caller.
        """
        relation = change.relation
        wanted = self._registry.matching(relation.schema, relation.table, change.kind)
        if not wanted:
            return []
        roles = {subscription.subscriber.claims.role for subscription in wanted}
        table = await self._table(relation.oid, frozenset(roles))
        if table is None:
            logger.warning("%s.%s was dropped before its changes were sent", relation.schema, relation.table)
            return []
        deliveries: list[Delivery] = []
        allowed: list[Subscription] = []
        for problem, subscriptions in _by_problem(change, table, wanted).items():
            if problem is None:
                allowed = subscriptions
            else:
                deliveries += _refusals(change, problem, subscriptions)
        if allowed:
            row = await self._complete(change, table, committed_us)
            allowed = await self._pass_filters(row, allowed)
            if change.kind != "DELETE" and table.has_row_security:
                allowed = await self._pass_row_security(row, allowed)
            deliveries += await self._render(row, allowed)
        return deliveries

    async def _table(self, oid: int, roles: frozenset[str]) -> Table | None:
        if (oid, roles) not in self._tables:
            self._tables[oid, roles] = await describe_table(self._session, oid, roles)
        return self._tables[oid, roles]

    async def _complete(self, change: Change, table: Table, committed_us: int) -> _Row:
        types = await self._column_types(change.relation)
        generated = [
            column for column in table.columns if column.generated is not None and column.name not in types
        ]
        new, old = change.new, change.old
        if generated:
            found = await describe_types(
                self._session, [(column.type_oid, column.type_modifier) for column in generated]
            )
            generated_types = {
                column.name: found_type
                for column, found_type in zip(generated, found, strict=True)
                if found_type
            }
            expressions = {column.name: column.generated or "" for column in generated}
            types = {**types, **generated_types}
            if new is not None:
                new = await self._with_generated(new, types, expressions, table.owner)
            if change.relation.identity == "f" and old:
                old = await self._with_generated(old, types, expressions, table.owner)
        committed_at = _POSTGRES_EPOCH + timedelta(microseconds=committed_us)
        return _Row(
            change=change,
            table=table,
            types=types,
            new=new,
            old=old,
            committed_at=committed_at.strftime("%Y-%m-%dT%H:%M:%S.")
            + f"{committed_at.microsecond // 1000:03d}Z",
        )

    async def _column_types(self, relation: Relation) -> dict[str, TypeInfo]:
        known = self._types.get(relation.oid)
        if known is None or known[0] is not relation:
            found = await describe_types(
                self._session, [(column.type_oid, column.type_modifier) for column in relation.columns]
            )
            types = {
                column.name: found_type
                for column, found_type in zip(relation.columns, found, strict=True)
                if found_type is not None
            }
            known = self._types[relation.oid] = (relation, types)
        return known[1]

    async def _with_generated(
        self,
        row: Mapping[str, str | None],
        types: Mapping[str, TypeInfo],
        expressions: Mapping[str, str],
        owner: str,
    ) -> dict[str, str | None]:
        """The row with its stored generated columns, which Postgres 17 does not stream: evaluated again.

        As the table's owner, because the expression may call functions of users. Without them if they need a
        large value that was not streamed.
        """
        source = sql.SQL(", ").join(
            sql.SQL("{}::{} as {}").format(
                sql.Literal(value), trusted(types[name].cast), sql.Identifier(name)
            )
            for name, value in row.items()
            if name in types
        )
        wanted = [name for name in expressions if name in types]
        values = sql.SQL(", ").join(
            sql.SQL("({})::{}::text").format(trusted(expressions[name]), trusted(types[name].cast))
            for name in wanted
        )
        try:
            rows = await self._session.run(
                sql.SQL("begin; set local role {}; select {} from (select {}) as streamed; rollback").format(
                    sql.Identifier(owner), values, source
                )
            )
        except psycopg.errors.UndefinedColumn as exc:
            logger.info("generated columns %s left out: %s", ", ".join(wanted), exc)
            return dict(row)
        return {**row, **dict(zip(wanted, rows[0][0], strict=True))}

    async def _pass_filters(self, row: _Row, subscriptions: list[Subscription]) -> list[Subscription]:
        subject = row.old if row.new is None else row.new
        answers: dict[Condition, bool] = {}
        for subscription in subscriptions:
            for condition in subscription.binding.conditions:
                answers[condition] = condition.column in subject and condition.column in row.types
        asked = [condition for condition, answerable in answers.items() if answerable]
        expressions = [
            condition.expression(row.types[condition.column], subject[condition.column])
            for condition in asked
        ]
        answers.update(zip(asked, await self._evaluate(expressions), strict=True))
        passed: list[Subscription] = []
        for subscription in subscriptions:
            readable = row.table.readable(subscription.subscriber.claims.role)
            conditions = subscription.binding.conditions
            # Readable, because the grant may have gone since the check at join.
            if all(answers[condition] and condition.column in readable for condition in conditions):
                passed.append(subscription)
        return passed

    async def _evaluate(self, expressions: list[sql.Composed]) -> list[bool]:
        """Answers of all expressions in one query; one by one if that fails, so that one bad filter fails
        alone.
        """
        if not expressions:
            return []
        try:
            rows = await self._session.run(sql.SQL("select {}").format(sql.SQL(", ").join(expressions)))
            return [bool(answer) for answer in rows[0][0]]
        except psycopg.Error as exc:
            if exc.sqlstate is None:
                raise
            if len(expressions) == 1:
                logger.warning("filter failed, no match: %s", exc)
                return [False]
        return [(await self._evaluate([expression]))[0] for expression in expressions]

    async def _pass_row_security(self, row: _Row, subscriptions: list[Subscription]) -> list[Subscription]:
        visible: dict[str, bool] = {}
        passed: list[Subscription] = []
        for subscription in subscriptions:
            claims = subscription.subscriber.claims
            if claims.text not in visible:
                visible[claims.text] = await self._visible(row, claims)
            if visible[claims.text]:
                passed.append(subscription)
        return passed

    async def _visible(self, row: _Row, claims: Claims) -> bool:
        """True if the row as it is now is visible to the caller. An error of a policy counts as no."""
        relation, values = row.change.relation, row.new or {}
        same_key = sql.SQL(" and ").join(
            sql.SQL("{} = {}::{}").format(
                sql.Identifier(name), sql.Literal(values[name]), trusted(row.types[name].cast)
            )
            for name in row.table.primary_key
        )
        try:
            rows = await self._session.run(
                sql.SQL(
                    "begin; select set_config('role', {}, true), set_config('request.jwt.claims', {}, true);"
                    " select exists (select from {} where {}); rollback"
                ).format(
                    sql.Literal(claims.role),
                    sql.Literal(claims.text),
                    sql.Identifier(relation.schema, relation.table),
                    same_key,
                )
            )
        except psycopg.Error as exc:
            if exc.sqlstate is None:
                raise
            logger.warning(
                "row security check of %s.%s failed for role %s, nothing sent: %s",
                relation.schema,
                relation.table,
                claims.role,
                exc,
            )
            return False
        return bool(rows[-1][0][0])

    async def _render(self, row: _Row, subscriptions: list[Subscription]) -> list[Delivery]:
        if not subscriptions:
            return []
        new = None if row.new is None else await self._json_values(row, row.new)
        old = await self._json_values(row, _visible_old(row))
        groups: dict[tuple[Subscriber, frozenset[str] | None], list[Subscription]] = {}
        for subscription in subscriptions:
            groups.setdefault((subscription.subscriber, subscription.binding.selected), []).append(
                subscription
            )
        texts: dict[tuple[str, frozenset[str] | None], str] = {}
        deliveries: list[Delivery] = []
        for (subscriber, selected), members in groups.items():
            role = subscriber.claims.role
            if (role, selected) not in texts:
                columns = row.table.readable(role)
                if selected is not None:
                    columns &= selected | set(row.table.primary_key)
                texts[role, selected] = _data(row, columns, new, old)
            deliveries.append(
                Delivery(subscriber=subscriber, subscriptions=members, data=texts[role, selected])
            )
        return deliveries

    async def _json_values(self, row: _Row, values: Mapping[str, str | None]) -> dict[str, str]:
        known = {
            column.name: values[column.name]
            for column in row.table.columns
            if column.name in values and column.name in row.types
        }
        return await render_values(self._session, known, row.types)


def _by_problem(
    change: Change, table: Table, subscriptions: list[Subscription]
) -> dict[tuple[str, ...] | None, list[Subscription]]:
    """Subscriptions by what keeps the row from being checked for them; None = nothing."""
    groups: dict[tuple[str, ...] | None, list[Subscription]] = {}
    key = set(table.primary_key)
    for subscription in subscriptions:
        problem: tuple[str, ...] | None = None
        if change.kind != "DELETE":
            if not key:
                problem = (_NO_PRIMARY_KEY,)
            elif not key <= table.readable(subscription.subscriber.claims.role):
                problem = (_UNAUTHORIZED,)
        groups.setdefault(problem, []).append(subscription)
    return groups


def _refusals(change: Change, errors: tuple[str, ...], subscriptions: list[Subscription]) -> list[Delivery]:
    relation = change.relation
    # The timestamp is null as on hosted projects, which realtime-py drops: say here what its user will not
    # see.
    logger.warning("%s on %s.%s: %s", change.kind, relation.schema, relation.table, ", ".join(errors))
    data = _object(
        {
            "schema": jsontext.dumps(relation.schema),
            "table": jsontext.dumps(relation.table),
            "type": jsontext.dumps(change.kind),
            "commit_timestamp": "null",
            "columns": "[]",
            "record": "{}",
            **({"old_record": "{}"} if change.kind == "UPDATE" else {}),
            "errors": jsontext.dumps(list(errors)),
        }
    )
    by_subscriber: dict[Subscriber, list[Subscription]] = {}
    for subscription in subscriptions:
        by_subscriber.setdefault(subscription.subscriber, []).append(subscription)
    return [
        Delivery(subscriber=subscriber, subscriptions=members, data=data)
        for subscriber, members in by_subscriber.items()
    ]


def _visible_old(row: _Row) -> dict[str, str | None]:
    """The old row, which for DELETE is only the key if the table has row-level security: it could not be
    checked.
    """
    if row.change.kind == "DELETE" and row.table.has_row_security:
        return {name: row.old[name] for name in row.table.primary_key if name in row.old}
    return dict(row.old)


def _data(row: _Row, columns: set[str], new: Mapping[str, str] | None, old: Mapping[str, str]) -> str:
    errors: list[str] = []
    text = _data_text(row, columns, new, old, errors)
    if len(text.encode()) > SIZE_LIMIT_BYTES:
        errors = [_PAYLOAD_TOO_LARGE]
        text = _data_text(row, columns, None if new is None else _small(new), _small(old), errors)
    return text


def _data_text(
    row: _Row, columns: set[str], new: Mapping[str, str] | None, old: Mapping[str, str], errors: list[str]
) -> str:
    relation = row.change.relation
    described = ",".join(
        f'{{"name":{jsontext.dumps(column.name)},"type":{jsontext.dumps(row.types[column.name].name)}}}'
        for column in row.table.columns
        if column.name in columns and column.name in row.types
    )
    members = {
        "schema": jsontext.dumps(relation.schema),
        "table": jsontext.dumps(relation.table),
        "type": jsontext.dumps(row.change.kind),
        "commit_timestamp": jsontext.dumps(row.committed_at),
        "columns": f"[{described}]",
    }
    if new is not None:
        members["record"] = _object(_only(new, columns))
    if row.change.kind != "INSERT":
        members["old_record"] = _object(_only(old, columns))
    members["errors"] = jsontext.dumps(list(errors)) if errors else "null"
    return _object(members)


def _small(values: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in values.items() if len(text.encode()) <= SMALL_VALUE_BYTES}


def _only(values: Mapping[str, str], columns: Iterable[str]) -> dict[str, str]:
    return {name: text for name, text in values.items() if name in columns}


def _object(members: Mapping[str, str]) -> str:
    """A JSON object of values that are JSON text already."""
    return "{" + ",".join(f"{jsontext.dumps(name)}:{text}" for name, text in members.items()) + "}"
