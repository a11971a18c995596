"""Everybody who might try something, with real clients and real tokens, and rows that they may want.

Two tenants: ``acme`` (owner, colleague, and the people who decide for it) and ``globex`` (stranger). The owner and the
stranger have one run each, of agent type ``vault``, that waits for a person; all the rows of a run hang below.
"""

from __future__ import annotations

import itertools
import os
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from postgrest import APIError
from supabase import Client, ClientOptions, create_client
from supabase_project import Project, forget_runs
from world import DEFINITION, Row, World, call, question, result, step

SIGNED_IN = ("owner", "colleague", "stranger", "reviewer", "other_reviewer", "operator")
CALLERS = ("anon", *SIGNED_IN, "service", "worker")
"""``service`` holds the secret key, ``worker`` the token of a worker with a role of its own."""

TENANTS = {name: "globex" if name == "stranger" else "acme" for name in SIGNED_IN}
APPOINTED: dict[str, dict[str, str]] = {
    "reviewer": {"tenant_id": "acme", "agent_type": "vault"},
    "other_reviewer": {"tenant_id": "acme", "agent_type": "reader"},
    "operator": {"tenant_id": "acme", "role": "operator"},
}
PASSWORD = "a long passphrase"
NOTHING = "nothing"
WITH_RUNS = ("owner", "stranger")

_numbers = itertools.count(1)


@dataclass
class Person:
    """Somebody who signed up, their unmodified client, and their access token."""

    id: str
    client: Client
    token: str


@dataclass
class Cast:
    """All callers. ``clients`` has one per caller, ``people`` those who signed in."""

    stack: Project
    people: dict[str, Person] = field(default_factory=dict[str, Person])
    clients: dict[str, Client] = field(default_factory=dict[str, Client])

    def id_of(self, name: str) -> str:
        return self.people[name].id

    def name_of(self, user_id: str | None) -> str:
        """The caller's name, for what a failing test says."""
        return next((name for name, person in self.people.items() if person.id == user_id), str(user_id))

    def token(self, caller: str) -> str:
        """What the caller presents: their access token, or the key."""
        if caller in self.people:
            return self.people[caller].token
        return {
            "anon": self.stack.publishable_key,
            "service": self.stack.secret_key,
            "worker": self.stack.env()["RUNHOLD_WORKER_TOKEN"],
        }[caller]

    def key(self, caller: str) -> str:
        """The API key that goes with it."""
        return self.stack.secret_key if caller == "service" else self.stack.publishable_key

    def join(self, name: str, tenant: str | None = None, **metadata: Any) -> Person:
        """Sign somebody up, as a frontend does. A tenant is given by whoever holds the secret key, and is in the token
        from the next sign-in on. ``metadata`` is what people may say about themselves."""
        client = new_client(self.stack.url, self.stack.publishable_key)
        email = f"{name}-{os.getpid()}-{next(_numbers)}@example.org"
        signed_up = client.auth.sign_up({"email": email, "password": PASSWORD, "options": {"data": metadata}})
        assert signed_up.user is not None
        if tenant is not None:
            service = new_client(self.stack.url, self.stack.secret_key)
            service.auth.admin.update_user_by_id(signed_up.user.id, {"app_metadata": {"tenant_id": tenant}})
            signed_up = client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        assert signed_up.user is not None
        assert signed_up.session is not None
        return Person(signed_up.user.id, client, signed_up.session.access_token)

    @classmethod
    def assembled(cls, stack: Project) -> Cast:
        """Sign everybody up and appoint those who decide."""
        cast = cls(stack)
        cast.clients["anon"] = new_client(stack.url, stack.publishable_key)
        cast.clients["service"] = new_client(stack.url, stack.secret_key)
        cast.clients["worker"] = new_client(stack.url, stack.publishable_key, cast.token("worker"))
        for name in SIGNED_IN:
            person = cast.people[name] = cast.join(name, TENANTS[name])
            cast.clients[name] = person.client
        with closing(World(stack.database_url)) as world:
            for name, scope in APPOINTED.items():
                world.appoint(cast.id_of(name), **scope)
        return cast


def new_client(url: str, key: str, token: str | None = None) -> Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    options = ClientOptions(auto_refresh_token=False, persist_session=False)
    options.headers = {**options.headers, **headers}
    return create_client(url, key, options)


@dataclass
class Vault:
    """What there is to protect: ``rows[table][name]`` is a row of the owner's or the stranger's run.

    Rows of tables that belong to nobody are filed under ``nobody``.
    """

    cast: Cast
    world: World
    worker_id: str
    runs: dict[str, str] = field(default_factory=dict[str, str])
    reviews: dict[str, str] = field(default_factory=dict[str, str])
    """Open approvals of ``send``."""
    rows: dict[str, dict[str, Row]] = field(default_factory=dict[str, dict[str, Row]])
    columns: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    keys: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Names of each table's primary key."""
    generated: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Columns that take no value from anybody."""

    @classmethod
    def filled(cls, cast: Cast, world: World) -> Vault:
        """Let the owner and the stranger start runs, and a worker bring them to where they wait for people."""
        types = [{**DEFINITION, "agent_type": name} for name in ("vault", "reader")]
        worker = world.worker(*types)
        vault = cls(cast, world, worker.id)
        for name in WITH_RUNS:
            inserted = (
                cast.clients[name]
                .table("agent_executions")
                .insert({"agent_type": "vault", "input_data": {"secret": f"of {name}"}})
                .execute()
            )
            vault.runs[name] = inserted.data[0]["id"]  # pyright: ignore
        claimed = {run["id"]: run for run in worker.claim()}
        for name, run_id in vault.runs.items():
            run = claimed[run_id]
            worker.record(
                run,
                steps=[step(1, worker.definitions["vault"])],
                calls=[
                    call(1, 0, "look", "read", "running"),
                    call(1, 1, "send", "unsafe", "awaiting_review"),
                    call(1, 2, "save", "unsafe", "awaiting_review"),
                ],
                results=[result(1, 0, output=f"the secret of {name}")],
                reviews=[question(1, 1), question(1, 2)],
            )
            worker.end(run, "awaiting_review")
            send, save = world.open_reviews(run_id)
            vault.reviews[name] = str(send["id"])
            decider = world.reviewer(agent_type="vault")
            world.decide(decider, save["id"])
            world.sql(
                "insert into agent_messages (execution_id, user_id, sender_id, content) values (%s, %s, %s, 'psst')",
                run_id,
                cast.id_of(name),
                cast.id_of(name),
            )
            world.sql(
                "insert into agent_budgets (scope, scope_key, period, max_tokens) values ('user', %s, 'day', 9000000)",
                cast.id_of(name),
            )
            world.sql(
                "insert into agent_usage (scope, scope_key, period, period_start) values ('user', %s, 'day', '2026-01-01')",
                cast.id_of(name),
            )
        world.sql(
            "insert into model_prices (model, input_usd, cached_input_usd, output_usd) values ('m', 1, 1, 1)"
            " on conflict do nothing"
        )
        world.sql(
            "insert into agent_metrics_hourly (hour, agent_type, measure, n) values ('2026-01-01', '*', 'seeded', 1)"
        )
        vault._take_stock()
        return vault

    def _take_stock(self) -> None:
        """Note one row of everybody's for each table."""
        nobodys = {
            "agent_types": "name = 'vault'",
            "agent_definitions": "agent_type = 'vault'",
            "agent_workers": f"id = '{self.worker_id}'",
            "model_prices": "model = 'm'",
            "agent_metrics_hourly": "measure = 'seeded'",
        }
        for table in tables(self.world):
            self._take_stock_of_columns(table)
            found = self.rows[table] = {}
            if table in nobodys:
                found["nobody"] = self.world.one(
                    f"select to_jsonb(t) from public.{table} t where {nobodys[table]}"
                )
                continue
            whose = "scope_key" if table == "agent_usage" else "user_id"
            if whose not in self.columns[table]:
                continue  # a new table: a test asks for its line
            for name in WITH_RUNS:
                where = f"{whose} = '{self.cast.id_of(name)}'"
                if table == "agent_reviews":
                    where = f"id = '{self.reviews[name]}'"
                row = self.world.one(f"select to_jsonb(t) from public.{table} t where {where} limit 1")
                if row is not None:
                    found[name] = row

    def _take_stock_of_columns(self, table: str) -> None:
        columns = self.world.sql(
            "select a.attname, a.attgenerated <> '' or a.attidentity <> '' as generated, i.indrelid is not null as key"
            " from pg_attribute a left join pg_index i"
            "   on i.indrelid = a.attrelid and i.indisprimary and a.attnum = any (i.indkey)"
            " where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped",
            f"public.{table}",
        )
        self.columns[table] = [column["attname"] for column in columns]
        self.keys[table] = [column["attname"] for column in columns if column["key"]]
        self.generated[table] = {column["attname"] for column in columns if column["generated"]}

    def tidied(self) -> None:
        """Delete the runs that a test started."""
        forget_runs(self.cast.stack, keep=self.runs.values())

    def emptied(self) -> None:
        """Leave nothing behind for other tests."""
        forget_runs(self.cast.stack)
        self.world.sql("delete from agent_workers where id = %s", self.worker_id)
        for name in WITH_RUNS:
            self.world.sql("delete from agent_budgets where scope_key = %s", self.cast.id_of(name))
            self.world.sql("delete from agent_usage where scope_key = %s", self.cast.id_of(name))
        self.world.sql("delete from model_prices where model = 'm'")
        self.world.sql("delete from agent_metrics_hourly where measure = 'seeded'")


@dataclass
class Answer:
    """What came of a call: an answer, nothing, or a refusal with its words."""

    kind: str
    words: dict[str, Any] = field(default_factory=dict[str, Any])


def called(cast: Cast, caller: str, name: str, arguments: dict[str, Any]) -> Answer:
    try:
        data = cast.clients[caller].rpc(name, arguments).execute().data
    except APIError as error:
        return Answer(str(error.code), error.json())
    if name == "agent_decide":  # a refusal is in the verdict
        (verdict,) = data
        verdict.pop("id")  # pyright: ignore
        return Answer(verdict["code"] or "answer", verdict)  # pyright: ignore
    if name == "agent_health_metrics":
        data = data["runs"]  # pyright: ignore
    return Answer("answer" if data or name == "agent_prune" else NOTHING)


def tables(world: World) -> list[str]:
    """Everything in public that rows can be read from."""
    return [
        row["relname"]
        for row in world.sql(
            "select relname from pg_class where relnamespace = 'public'::regnamespace"
            " and relkind in ('r', 'p', 'v', 'm', 'f') order by 1"
        )
    ]
