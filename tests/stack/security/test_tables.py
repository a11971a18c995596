"""Every table × every verb and column × every caller, through supabase-py with real tokens.

What is allowed stands in TABLES, and nowhere else: everybody not named there is refused (42501), or sees no row where
the table says so. The owner's row is what everybody tries to get at. A new table or column fails until it has its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from cast import CALLERS, SIGNED_IN, WITH_RUNS, Cast, Vault, tables
from postgrest import APIError
from world import Row

SERVICE = "service"
EVERYBODY = " ".join([*SIGNED_IN, SERVICE])
BOTH = "owner stranger"

OK = "ok"
EMPTY = "no rows"
REFUSED = "42501"
ASKED = "RH011"
"""The right is there, and the trigger speaks: the update tried here does not say approved or rejected."""

OF_REVIEWS = "status edited_input answer comment"
OF_OPERATORS = (
    "enabled approval_tools limits max_concurrent max_concurrent_per_user max_attempts review_ttl review_on_expiry"
    " escalation_ttl approvals_needed allow_self_review notify on_budget"
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Who may do what. Callers and columns are words in a text; of a run's rows ``sees`` says whose.

    :ivar others: what signed-in callers get who do not see anything: no rows, or a refusal.
    :ivar shows: the columns that signed-in callers may read, if not all.
    :ivar inserts: columns → who may name them in an insert; ``base`` is a row that they complete.
    :ivar updates: columns → who may update them; the others see no row to update, where ``hides`` says so.
    """

    columns: str
    sees: Mapping[str, str]
    others: str = EMPTY
    shows: str = ""
    base: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inserts: Mapping[str, str] = field(default_factory=dict[str, str])
    updates: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, dict[str, str]])
    deletes: str = ""


def of_owners(**more: str) -> dict[str, str]:
    return {"owner": "owner", "stranger": "stranger", SERVICE: BOTH, **more}


TABLES = {
    "agent_types": Table(
        columns="name description input_schema definition_id changed " + OF_OPERATORS,
        shows="name description input_schema enabled",
        sees=dict.fromkeys([*SIGNED_IN, SERVICE], "nobody"),
        updates={OF_OPERATORS: {SERVICE: OK}},
    ),
    "agent_definitions": Table(
        columns="id hash agent_type version model instructions tools params description input_schema limits max_attempts"
        " review_ttl created_at",
        sees={SERVICE: "nobody"},
        others=REFUSED,
    ),
    "agent_executions": Table(
        columns="id user_id agent_type status input_data state result error step_count token_count created_at updated_at"
        " completed_at tenant_id error_detail limits allowance definition_id effective_limits priority wake_at idempotency_key forked_from copied_steps"
        " copied_tokens resumed_after_step metadata attempt worker_id fence claim_seq recorded_seq cancel_requested_at outage_since release_count waiting_since waiting_told_at started_at state_since active_ms"
        " queued_ms review_ms input_tokens output_tokens cached_tokens cost_usd reserved_tokens reserved_usd reserved_in"
        " tool_call_count tool_error_count review_count",
        sees=of_owners(),
        base={"agent_type": "vault", "input_data": {}},
        inserts={
            "agent_type input_data limits wake_at idempotency_key metadata": EVERYBODY,
            "user_id": "owner service",  # the owner's: others forge it
        },
    ),
    "agent_steps": Table(
        columns="execution_id step_number user_id definition_id message injected finish_reason input_tokens"
        " output_tokens cached_tokens usage_estimated streamed cost_usd latency_ms attempt worker_id max_output_tokens landing"
        " created_at",
        sees=of_owners(),
    ),
    "agent_tool_calls": Table(
        columns="id execution_id step_number tool_name tool_input tool_output status latency_ms error called_at user_id"
        " call_id position effect attempt shown edited cut_off finished_at",
        sees=of_owners(),
    ),
    "agent_messages": Table(
        columns="id execution_id user_id sender_id content created_at delivered_step",
        sees=of_owners(),
    ),
    "agent_events": Table(
        columns="id execution_id user_id tenant_id at actor_kind actor_id kind data",
        sees=of_owners(),
    ),
    "agent_reviews": Table(
        columns="id execution_id tool_call_id user_id tenant_id kind agent_type tool_name summary proposed_input"
        " input_hash edited_input answer comment status approvals_needed approvals_given requested_at expires_at"
        " escalated_at decided_at reviewer_id used_at",
        sees=of_owners(reviewer="owner", operator="owner"),
        updates={
            OF_REVIEWS: {
                **dict.fromkeys(["owner", "reviewer", "operator"], ASKED),
                **dict.fromkeys(["colleague", "stranger", "other_reviewer"], EMPTY),
            }
        },
    ),
    "agent_review_decisions": Table(
        columns="id review_id execution_id user_id reviewer_id decision edited_input answer comment decided_at",
        sees=of_owners(),
    ),
    "agent_budgets": Table(
        columns="id scope scope_key period max_tokens max_usd user_id",
        sees={SERVICE: BOTH},
        others=REFUSED,
        inserts={"id scope scope_key period max_tokens max_usd": SERVICE},
        updates={"id scope scope_key period max_tokens max_usd": {SERVICE: OK}},
        deletes=SERVICE,
    ),
    "agent_usage": Table(
        columns="id scope scope_key period period_start tokens usd reserved_tokens reserved_usd",
        sees={SERVICE: BOTH},
        others=REFUSED,
    ),
    "agent_workers": Table(
        columns="id hostname pid version agent_types capacity in_flight lease started_at last_seen_at lease_expires_at"
        " claim_seq draining dead_at definition_ids",
        sees={SERVICE: "nobody"},
        others=REFUSED,
    ),
    "agent_metrics_hourly": Table(
        columns="hour hours agent_type measure label n total buckets counts",
        sees={SERVICE: "nobody"},
        others=REFUSED,
    ),
    "model_prices": Table(
        columns="model valid_from input_usd cached_input_usd output_usd",
        sees=dict.fromkeys([*SIGNED_IN, SERVICE], "nobody"),
        inserts={"model valid_from input_usd cached_input_usd output_usd": SERVICE},
        updates={"model valid_from input_usd cached_input_usd output_usd": {SERVICE: OK}},
        deletes=SERVICE,
    ),
}

GENERATED = "428C9"
"""The right is there, and the column takes no value from anybody."""

Outcomes = dict[str, str]


class Attempts:
    """One caller at one table."""

    def __init__(self, vault: Vault, table: str, caller: str) -> None:
        self._vault = vault
        self._client = vault.cast.clients[caller]
        self.caller = caller
        self.name = table
        self.table = TABLES[table]
        rows = vault.rows[table]
        self.row: Row = rows.get("owner") or rows["nobody"]
        self.key = {name: self.row[name] for name in vault.keys[table]}

    def outcome(self, ask: Callable[[], Any]) -> str:
        """What came of it: rows, none, or the refusal's code."""
        try:
            answer = ask()
        except APIError as error:
            code = str(error.code)
            return OK if code[:2] in ("22", "23") else code  # data is looked at only for who has the right
        return OK if answer.data else EMPTY

    def select(self, column: str) -> str:
        return self.outcome(lambda: self._from.select(column).execute())

    def sort(self, column: str) -> str:
        """A column that may be read, in the order of one that may not."""
        shown = self.table.shows.split()[0]
        return self.outcome(lambda: self._from.select(shown).order(column).execute())

    def seen(self) -> str:
        """Whose rows a plain select of everything shows, or the refusal."""
        what = self.table.shows.replace(" ", ",") if self.caller in SIGNED_IN and self.table.shows else "*"
        try:
            rows = self._from.select(what).execute().data
        except APIError as error:
            return str(error.code)
        theirs = self._vault.rows[self.name]
        if "nobody" in theirs:
            return "nobody" if any(_shows(row, theirs["nobody"]) for row in rows) else EMPTY
        names = {self._vault.cast.name_of(row.get("user_id") or row["scope_key"]) for row in rows}
        return " ".join(sorted(names)) or EMPTY

    def insert(self, column: str) -> str:
        row = {**self.table.base, column: self.row[column]}
        if self.caller == SERVICE and self.name == "agent_executions":
            row["user_id"] = self.row["user_id"]
        return self.outcome(lambda: self._from.insert(row).execute())

    def update(self, column: str) -> str:
        change = {column: self.row[column]}
        return self.outcome(lambda: self._filtered(self._from.update(change), self.key).execute())

    def upsert(self, row: Row) -> str:
        return self.outcome(lambda: self._from.upsert(row).execute())

    def delete(self) -> str:
        return self.outcome(lambda: self._filtered(self._from.delete(), self.key).execute())

    @property
    def _from(self) -> Any:
        return self._client.table(self.name)

    @staticmethod
    def _filtered(query: Any, filters: Mapping[str, Any]) -> Any:
        for name, value in filters.items():
            query = query.eq(name, value)
        return query


def _shows(row: Row, whole: Row) -> bool:
    return all(whole.get(name) == value for name, value in row.items() if name in ("id", "name", "model"))


def granted(cells: Mapping[str, Any], column: str) -> Any:
    """What the line for ``column`` says."""
    return next((value for columns, value in cells.items() if column in columns.split()), None)


def columns_for(table: Table, caller: str) -> Iterator[str]:
    """All for the owner and the service. Of those that no line grants to anybody one is enough for the others: they have
    no right to any column that the owner does not have, as `test_rights` reads in the catalog."""
    named = {column for cells in (table.inserts, table.updates) for line in cells for column in line.split()}
    named |= set(table.shows.split())
    rest = len(table.columns) if caller in ("owner", SERVICE) else 1
    for column in table.columns.split():
        if column in named:
            yield column
        elif rest:
            rest -= 1
            yield column


def expected(table: Table, caller: str) -> Iterator[tuple[str, str]]:
    """The cells of one caller: what is tried, and what must come of it."""
    nobody = table.others if caller in SIGNED_IN else REFUSED
    everything = not table.shows or caller not in SIGNED_IN
    yield "rows seen", table.sees.get(caller, nobody)
    for column in columns_for(table, caller):
        reads = everything or column in table.shows.split()
        if not everything:
            yield f"select {column}", OK if reads else REFUSED
            yield f"sort {column}", OK if reads else REFUSED
        may_insert = caller in (granted(table.inserts, column) or "").split()
        yield f"insert {column}", OK if may_insert else REFUSED
        yield f"update {column}", (granted(table.updates, column) or {}).get(caller, REFUSED)
    writes_all = caller in table.deletes.split()
    yield "upsert", OK if writes_all else REFUSED
    yield "delete", OK if writes_all else REFUSED  # last: then the row is gone


def attempted(attempts: Attempts, cell: str, generated: set[str]) -> str:
    """What came of a cell."""
    verb, _, column = cell.partition(" ")
    match verb:
        case "rows":
            return attempts.seen()
        case "select":
            return attempts.select(column)
        case "sort":
            return attempts.sort(column)
        case "insert":
            outcome = attempts.insert(column)
        case "update":
            outcome = attempts.update(column)
        case "upsert":
            row = {name: value for name, value in attempts.row.items() if name not in generated}
            return attempts.upsert(row)
        case _:
            return attempts.delete()
    return REFUSED if outcome == GENERATED else outcome


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("table", sorted(TABLES))
def test_cells(vault: Vault, table: str, caller: str) -> None:
    attempts = Attempts(vault, table, caller)
    outcomes: Outcomes = {}
    for cell, must in expected(TABLES[table], caller):
        found = attempted(attempts, cell, vault.generated[table])
        if found != must:
            outcomes[cell] = f"{found}, not {must}"
    vault.tidied()
    assert not outcomes


def test_every_table_and_column_has_its_line(vault: Vault) -> None:
    assert tables(vault.world) == sorted(TABLES)
    known = {name: sorted(table.columns.split()) for name, table in TABLES.items()}
    assert {name: sorted(columns) for name, columns in vault.columns.items()} == known
    columns_named = {
        name: {
            column for cells in (table.inserts, table.updates) for line in cells for column in line.split()
        }
        for name, table in TABLES.items()
    }
    assert all(named <= set(known[name]) for name, named in columns_named.items())


def test_the_vault_has_a_row_of_everybodys_in_every_table(vault: Vault) -> None:
    """Otherwise a cell would be refused, or empty, for want of a row."""
    for table, rows in vault.rows.items():
        assert set(rows) in ({"nobody"}, set(WITH_RUNS)), table


def test_tables_of_the_inner_schema_are_not_exposed(cast: Cast, vault: Vault) -> None:
    inner = vault.world.sql(
        "select relname from pg_class where relnamespace = 'runhold'::regnamespace and relkind in ('r', 'v', 'S')"
    )
    assert inner
    for caller in CALLERS:
        headers = {"apikey": cast.key(caller), "authorization": f"Bearer {cast.token(caller)}"}
        with httpx.Client(base_url=f"{cast.stack.url}/rest/v1", headers=headers) as http:
            for name in (row["relname"] for row in inner):
                for schema, code in (("runhold", "PGRST106"), ("public", "PGRST205")):
                    answer = http.get(f"/{name}", headers={"accept-profile": schema})
                    assert (answer.status_code >= 400, answer.json()["code"]) == (True, code), (caller, name)
