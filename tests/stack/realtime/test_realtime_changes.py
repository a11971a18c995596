"""`postgres_changes`: who receives which change, and what is in it."""

import json
from decimal import Decimal
from typing import Any

import pytest
from realtime import RealtimeSubscribeStates
from realtime_stack import Database, Inbox, RawSocket, Stack

ONE = "00000000-0000-4000-8000-000000000001"
TWO = "00000000-0000-4000-8000-000000000002"


async def subscribe(client: Any, topic: str, callback: Any, **binding: Any) -> Any:
    """A joined channel whose subscription the server has confirmed. `states` gets those of the client."""
    channel, system, states = client.channel(topic), Inbox(), binding.pop("states", None)
    channel.on_system(system)
    channel.on_postgres_changes(binding.pop("event", "*"), callback, **binding)
    await channel.subscribe(states)
    await system.until(lambda items: any(item.message == "Subscribed to PostgreSQL" for item in items))
    return channel


async def raw_subscribe(socket: RawSocket, topic: str, *bindings: dict[str, Any], **join: Any) -> list[int]:
    """Join with these bindings; answers their ids, once the server has confirmed them."""
    reply = await socket.join(topic, postgres_changes=list(bindings), **join)
    assert reply["status"] == "ok", reply
    system = await socket.receive()
    assert system["payload"]["message"] == "Subscribed to PostgreSQL", system
    echoes = reply["response"]["postgres_changes"]
    assert [{key: value for key, value in echo.items() if key != "id"} for echo in echoes] == list(bindings)
    return [echo["id"] for echo in echoes]


async def publish(database: Database, name: str, columns: str) -> None:
    await database.run(f"create table {name} ({columns})")
    await database.run(f"alter publication supabase_realtime add table {name}")


async def test_insert_update_and_delete_arrive_in_order(client: Any, database: Database, name: str) -> None:
    await publish(database, name, "id int primary key, title text")
    inbox = Inbox()
    await subscribe(await client(), name, inbox, table=name)
    await database.run(f"insert into {name} values (1, 'a')")
    await database.run(f"update {name} set title = 'b'")
    await database.run(f"truncate {name}")  # tells nobody
    await database.run(f"insert into {name} values (2, 'c')")
    await database.run(f"delete from {name}")
    insert, update, _, delete = [item["data"] for item in await inbox.count(4)]
    assert (insert["type"], insert["record"]) == ("INSERT", {"id": 1, "title": "a"})
    assert "old_record" not in insert
    assert (update["record"], update["old_record"]) == ({"id": 1, "title": "b"}, {"id": 1})
    assert delete["old_record"] == {"id": 2}
    assert "record" not in delete
    assert insert["columns"] == [{"name": "id", "type": "int4"}, {"name": "title", "type": "text"}]
    assert insert["errors"] is None


async def test_one_message_names_all_bindings_that_match(raw: Any, database: Database, name: str) -> None:
    await publish(database, name, "id int primary key, title text")
    socket = await raw()
    ids = await raw_subscribe(
        socket,
        name,
        {"event": "INSERT", "schema": "public", "table": name},
        {"event": "*", "schema": "public"},
        {"event": "*", "schema": "*", "table": "*", "extra": None},
        {"event": "DELETE", "table": name},
        {"event": "insert", "table": name, "select": ["title"]},
        {"event": "INSERT", "table": name, "filter": "id=eq.2"},
    )
    assert len(set(ids)) == len(ids)
    assert all(0 < number < 2**27 for number in ids)
    await database.run(f"insert into {name} values (1, 'a')")
    whole, selected = (await socket.receive())["payload"], (await socket.receive())["payload"]
    assert whole["ids"] == sorted(ids[:3])
    assert (selected["ids"], selected["data"]["record"]) == ([ids[4]], {"id": 1, "title": "a"})
    await database.run(f"delete from {name}")
    assert sorted((await socket.receive())["payload"]["ids"]) == sorted(ids[1:4])
    again = await raw()
    assert await raw_subscribe(again, name, {"event": "DELETE", "table": name}) == [ids[3]]


async def test_select_sends_the_key_and_the_chosen_columns(raw: Any, database: Database, name: str) -> None:
    await publish(database, name, "id int primary key, a int, b int")
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "*", "schema": "public", "table": name, "select": ["b"]})
    await database.run(f"insert into {name} values (1, 2, 3)")
    data = (await socket.receive())["payload"]["data"]
    assert data["record"] == {"id": 1, "b": 3}
    assert [column["name"] for column in data["columns"]] == ["id", "b"]


async def test_changes_of_one_transaction_share_their_time_and_keep_their_order(
    raw: Any, database: Database, name: str
) -> None:
    await publish(database, name, "id int primary key")
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "*", "schema": "public", "table": name})
    await database.run(f"insert into {name} select generate_series(1, 50)")
    changes = [(await socket.receive())["payload"]["data"] for _ in range(50)]
    assert [change["record"]["id"] for change in changes] == list(range(1, 51))
    assert len({change["commit_timestamp"] for change in changes}) == 1
    assert changes[0]["commit_timestamp"].endswith("Z")
    assert len(changes[0]["commit_timestamp"]) == len("2026-01-02T03:04:05.678Z")


# Who receives


async def test_row_security_sends_inserts_to_the_owner_only_and_deletes_to_all(
    client: Any, database: Database, stack: Stack, name: str
) -> None:
    await publish(database, name, "id int primary key, owner uuid, secret text")
    await database.run(f"alter table {name} enable row level security")
    await database.run(f"alter table {name} replica identity full")
    await database.run(f"create policy own on {name} for select to authenticated using (owner = auth.uid())")
    first, second, service = Inbox(), Inbox(), Inbox()
    await subscribe(await client(token=stack.token(sub=ONE)), name, first, table=name)
    await subscribe(await client(token=stack.token(sub=TWO)), name, second, table=name)
    await subscribe(await client(key=stack.secret_key), name, service, table=name)
    await database.run(f"insert into {name} values (1, '{ONE}', 'x')")
    await database.run(f"insert into {name} values (2, '{TWO}', 'x')")
    # The check reads the row as it is: it must not be gone before it was sent.
    await first.count(1)
    await second.count(1)
    await service.count(2)
    await database.run(f"delete from {name} where id = 1")
    row = {"id": 1, "owner": ONE, "secret": "x"}
    assert [item["data"].get("record") for item in await first.count(2)] == [row, None]
    assert [item["data"].get("record", {}).get("id") for item in await second.count(2)] == [2, None]
    assert [item["data"].get("record", {}).get("id") for item in await service.count(3)] == [1, 2, None]
    assert second.items[1]["data"]["old_record"] == {"id": 1}


async def test_two_hundred_quick_inserts_under_row_security_arrive_in_order(
    client: Any, database: Database, stack: Stack, name: str
) -> None:
    await publish(database, name, "id int primary key, owner uuid")
    await database.run(f"alter table {name} enable row level security")
    await database.run(f"create policy own on {name} for select to authenticated using (owner = auth.uid())")
    inbox = Inbox()
    await subscribe(await client(token=stack.token(sub=ONE)), name, inbox, table=name)
    for number in range(200):
        await database.run(f"insert into {name} values ({number}, '{ONE}')")
    records = [item["data"]["record"]["id"] for item in await inbox.count(200)]
    assert records == list(range(200))


async def test_failing_policy_silences_only_the_caller_it_fails_for(
    raw: Any, database: Database, stack: Stack, name: str
) -> None:
    await publish(database, name, "id int primary key")
    await database.run(f"alter table {name} enable row level security")
    await database.run(f"create policy broken on {name} for select to authenticated using (1 / (id * 0) = 1)")
    await database.run(f"create policy fine on {name} for select to anon using (true)")
    broken, fine = await raw(), await raw()
    binding = {"event": "*", "schema": "public", "table": name}
    await raw_subscribe(broken, name, binding, token=stack.token())
    await raw_subscribe(fine, name, binding)
    await database.run(f"insert into {name} values (1)")
    assert (await fine.receive())["payload"]["data"]["record"] == {"id": 1}
    await broken.nothing_more()


async def test_new_token_changes_who_the_subscription_is_for(
    raw: Any, database: Database, stack: Stack, name: str
) -> None:
    await publish(database, name, "id int primary key, owner uuid")
    await database.run(f"alter table {name} enable row level security")
    await database.run(f"create policy own on {name} for select to authenticated using (owner = auth.uid())")
    socket = await raw()
    await raw_subscribe(
        socket, name, {"event": "*", "schema": "public", "table": name}, token=stack.token(sub=ONE)
    )
    await socket.push(f"realtime:{name}", "access_token", {"access_token": stack.token(sub=TWO)})
    assert (await socket.receive())["payload"]["message"] == "Subscribed to PostgreSQL"
    await database.run(f"insert into {name} values (1, '{ONE}'), (2, '{TWO}')")
    assert (await socket.receive())["payload"]["data"]["record"]["id"] == 2


async def test_columns_a_role_may_not_select_are_left_out(raw: Any, database: Database, name: str) -> None:
    await publish(database, name, "id int primary key, secret text, open text")
    await database.run(f"revoke select on {name} from anon")
    await database.run(f"grant select (id, open) on {name} to anon")
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "*", "schema": "public", "table": name})
    await database.run(f"insert into {name} values (1, 'x', 'y')")
    data = (await socket.receive())["payload"]["data"]
    assert data["record"] == {"id": 1, "open": "y"}
    assert [column["name"] for column in data["columns"]] == ["id", "open"]


async def test_rows_that_cannot_be_checked_are_announced_as_errors(
    raw: Any, database: Database, name: str
) -> None:
    await publish(database, f"{name}_nokey", "id int")
    await publish(database, f"{name}_hidden", "id int primary key")
    await database.run(f"revoke select on {name}_hidden from anon")
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "*", "schema": "public"})
    for table, error in (("nokey", "400: Bad Request, no primary key"), ("hidden", "401: Unauthorized")):
        await database.run(f"insert into {name}_{table} values (1)")
        assert (await socket.receive())["payload"]["data"] == {
            "schema": "public",
            "table": f"{name}_{table}",
            "type": "INSERT",
            "commit_timestamp": None,
            "columns": [],
            "record": {},
            "errors": [f"Error {error}"],
        }


async def test_large_changes_keep_only_small_values(client: Any, database: Database, name: str) -> None:
    await publish(database, name, "id int primary key, title text, body text")
    inbox = Inbox()
    await subscribe(await client(), name, inbox, table=name)
    await database.run(f"insert into {name} values (1, 'small', repeat('x', 1100000))")
    await database.run(f"insert into {name} values (2, 'small', repeat('x', 1040000))")
    large, fits = [item["data"] for item in await inbox.count(2)]
    assert large["record"] == {"id": 1, "title": "small"}
    assert large["errors"] == ["Error 413: Payload Too Large"]
    assert len(fits["record"]["body"]) == 1_040_000


async def test_table_published_after_the_subscription_delivers(
    raw: Any, database: Database, name: str
) -> None:
    await publish(database, f"{name}_first", "id int primary key")
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "*", "schema": "public"})
    await publish(database, f"{name}_later", "id int primary key")
    await database.run(f"insert into {name}_later values (1)")
    assert (await socket.receive())["payload"]["data"]["table"] == f"{name}_later"


# What is refused


@pytest.mark.parametrize(
    ("binding", "text"),
    [
        ({"table": "nope"}, "Please check Realtime is enabled for the given connect parameters: [event: *,"),
        (
            {"table": "TABLE", "filter": "x=eq.1"},
            "Exception: ERROR P0001 (raise_exception) invalid column for fi",
        ),
        (
            {"table": "TABLE", "filter": "id=eq.a"},
            "ERROR 22P02 (invalid_text_representation) invalid input sy",
        ),
        ({"table": "TABLE", "filter": "id=like.a"}, "ERROR 42883 (undefined_function)"),
        ({"table": "TABLE", "filter": "id=is.true"}, "ERROR 42804 (datatype_mismatch)"),
        ({"table": "TABLE", "filter": "title=match.("}, "ERROR 2201B (invalid_regular_expression)"),
        ({"table": "TABLE", "filter": "id=foo.hey"}, 'Error parsing `filter` params: ["foo", "hey"]'),
        (
            {"table": "TABLE", "filter": "id=eq.1,"},
            "filter must not contain empty segments (check for extra co",
        ),
        ({"table": "TABLE", "select": "id"}, "`select` must be a list"),
        ({"table": "TABLE", "select": ["x"]}, "invalid column for select x"),
        ({"schema": "public", "select": ["id"]}, "`select` needs one"),
        ({"event": "*"}, "No subscription params provided. Please provide at least a `schema` or `table`"),
    ],
)
async def test_bindings_that_cannot_be_served_end_in_a_system_error(
    raw: Any, database: Database, name: str, binding: dict[str, Any], text: str
) -> None:
    await publish(database, name, "id int primary key, title text")
    if binding.get("table") == "TABLE":
        binding = binding | {"table": name}
    socket = await raw()
    good = {"event": "*", "schema": "public", "table": name}
    reply = await socket.join(name, postgres_changes=[good, binding], broadcast={"self": True})
    assert reply["status"] == "ok"
    system = (await socket.receive())["payload"]
    assert (system["status"], system["extension"], system["channel"]) == ("error", "postgres_changes", name)
    assert text in system["message"]
    await database.run(f"insert into {name} values (1)")
    # The channel stays, without any of its subscriptions.
    await socket.push(f"realtime:{name}", "broadcast", {"type": "broadcast", "event": "x", "payload": {}})
    assert (await socket.receive())["event"] == "broadcast"
    await socket.nothing_more()


async def test_unpublished_table_errors_the_python_client(client: Any, database: Database, name: str) -> None:
    await database.run(f"create table {name} (id int primary key)")
    states = Inbox()
    channel = (await client()).channel(name)
    channel.on_postgres_changes("*", Inbox(), table=name)
    await channel.subscribe(states)
    await states.until(lambda items: len(items) >= 2)
    assert [state for state, _error in states.items[:2]] == [
        RealtimeSubscribeStates.SUBSCRIBED,
        RealtimeSubscribeStates.CHANNEL_ERROR,
    ]


# Values

VALUES = {
    "int2": ("int2", "-32768"),
    "int8": ("int8", "9223372036854775807"),
    "numeric": ("numeric", "1.50"),
    "numeric_scaled": ("numeric(10,3)", "12345.6"),
    "nan": ("numeric", "NaN"),
    "infinite": ("float8", "-Infinity"),
    "float4": ("float4", "1.1"),
    "float8": ("float8", "1e+25"),
    "small_float": ("float8", "1.5e-7"),
    "bool": ("bool", "false"),
    "text": ("text", 'a "quoted" \\ back\n\u2028 ü 🦊'),
    "varchar": ("varchar(5)", "abc"),
    "char": ("char(5)", "abc"),
    "bit": ("bit(3)", "101"),
    "json": ("json", '{"b": 1.10, "a": [1, null], "b": 2}'),
    "jsonb": ("jsonb", '{"b": 1.10, "a": [1, {"c": "\\u00e4"}]}'),
    "timestamptz": ("timestamptz", "2026-01-02 03:04:05.678901+00"),
    "timestamptz_whole": ("timestamptz", "2026-01-02 03:04:05+02"),
    "timestamptz_infinite": ("timestamptz", "infinity"),
    "timestamptz_bc": ("timestamptz", "0044-03-15 12:00:00+00 BC"),
    "timestamp": ("timestamp", "2026-01-02 03:04:05.5"),
    "timestamp_far": ("timestamp", "12026-01-02 03:04:05"),
    "date": ("date", "2026-01-02"),
    "time": ("time", "03:04:05.1"),
    "timetz": ("timetz", "03:04:05+02"),
    "interval": ("interval", "1 year 2 days 03:04:05"),
    "uuid": ("uuid", ONE),
    "enum": ("MOOD", "so-so"),
    "domain": ("EMAIL", "a@b.c"),
    "composite": ("PAIR", "(1,two)"),
    "range": ("int4range", "[1,5)"),
    "money": ("money", "12.34"),
    "inet": ("inet", "10.0.0.0/8"),
    "oid": ("oid", "42"),
    "xml": ("xml", "<a>1</a>"),
    "ints": ("int[]", "{{1,2},{3,NULL}}"),
    "texts": ("text[]", '{a,"b,c",NULL}'),
    "point": ("point", "(1,2)"),
    "missing": ("text", None),
    "name": ("name", "abc"),
}


async def test_values_are_what_to_jsonb_makes_of_them(raw: Any, database: Database, name: str) -> None:
    await database.run(
        f"create type {name}_mood as enum ('so-so'); "
        f"create domain {name}_email as text check (value like '%@%');"
        f"create type {name}_pair as (n int, word text)"
    )

    def named(kind: str) -> str:
        return f"{name}_{kind.lower()}" if kind in ("MOOD", "EMAIL", "PAIR") else kind

    types = {column: named(kind) for column, (kind, _) in VALUES.items()}
    columns = ", ".join(f'"{column}" {kind}' for column, kind in types.items())
    await publish(database, name, f"id int primary key, {columns}, bytes bytea")
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "*", "schema": "public", "table": name})
    marks = ", ".join(f"%s::{kind}" for kind in types.values())
    await database.run(
        f"insert into {name} values (1, {marks}, '\\xDEADBEEF')", *(value for _, value in VALUES.values())
    )
    await database.run("set timezone = 'UTC'")
    expected = await database.run(
        "select " + ", ".join(f'to_jsonb("{column}")::text' for column in types) + f" from {name}"
    )
    text = (await socket.socket.receive()).data
    frame = json.loads(text, parse_float=Decimal)
    record = frame[4]["data"]["record"]
    wanted = {
        column: None if value is None else json.loads(value, parse_float=Decimal)
        for column, value in zip(types, expected[0], strict=True)
    } | {"nan": None, "infinite": None}
    assert {column: record[column] for column in types} == wanted
    assert record["bytes"] == "deadbeef"
    assert '"numeric":1.50,' in text
    assert '"int8":9223372036854775807,' in text
    described = {column["name"]: column["type"] for column in frame[4]["data"]["columns"]}
    assert [described[column] for column in ("char", "ints", "enum", "domain", "timestamptz")] == [
        "bpchar",
        "_int4",
        f"{name}_mood",
        f"{name}_email",
        "timestamptz",
    ]


async def test_unchanged_large_value_is_left_out_or_taken_from_the_old_row(
    raw: Any, database: Database, name: str
) -> None:
    await publish(database, name, "id int primary key, n int, body text")
    await database.run(f"alter table {name} alter body set storage external")
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "UPDATE", "schema": "public", "table": name})
    await database.run(f"insert into {name} values (1, 1, repeat('x', 10000))")
    await database.run(f"update {name} set n = 2")
    assert (await socket.receive())["payload"]["data"]["record"] == {"id": 1, "n": 2}
    await database.run(f"alter table {name} replica identity full")
    await database.run(f"update {name} set n = 3")
    data = (await socket.receive())["payload"]["data"]
    assert len(data["record"]["body"]) == 10_000
    assert data["old_record"]["n"] == 2


async def test_stored_generated_columns_are_sent_and_filtered_by(
    raw: Any, database: Database, name: str
) -> None:
    await publish(
        database,
        name,
        'id int primary key, "a b" int, twice int generated always as ("a b" * 2) stored, z text',
    )
    socket = await raw()
    binding = {"event": "*", "schema": "public", "table": name, "filter": "twice=eq.4"}
    await raw_subscribe(socket, name, binding)
    await database.run(f"insert into {name} values (1, 1, default, 'x'), (2, 2, default, 'y')")
    data = (await socket.receive())["payload"]["data"]
    assert list(data["record"].items()) == [("id", 2), ("a b", 2), ("twice", 4), ("z", "y")]
    await socket.nothing_more()


async def test_old_record_follows_the_replica_identity(raw: Any, database: Database, name: str) -> None:
    await publish(database, name, "id int primary key, a int not null, b int")
    await database.run(f"create unique index {name}_a on {name} (a)")
    socket = await raw()
    await raw_subscribe(socket, name, {"event": "*", "schema": "public", "table": name})
    for identity, update, key_update, delete in (
        ("default", {"id": 1}, {"id": 1}, {"id": 9}),
        ("full", {"id": 1, "a": 1, "b": 1}, {"id": 1, "a": 1, "b": 2}, {"id": 9, "a": 1, "b": 2}),
        (f"using index {name}_a", {"a": 1}, {"a": 1}, {"a": 1}),
    ):
        await database.run(f"alter table {name} replica identity {identity}")
        await database.run(f"insert into {name} values (1, 1, 1)")
        await database.run(f"update {name} set b = 2")
        await database.run(f"update {name} set id = 9")
        await database.run(f"delete from {name}")
        changes = [(await socket.receive())["payload"]["data"] for _ in range(4)]
        assert [change.get("old_record") for change in changes] == [None, update, key_update, delete], (
            identity
        )


async def test_names_that_need_quoting(raw: Any, database: Database, name: str) -> None:
    table = f'{name} "odd" %s'
    quoted = '"' + table.replace('"', '""') + '"'
    await database.run(f'create table {quoted} ("k%%1" int primary key, "v""" point)'.replace("%%", "%"))
    await database.run(f"alter publication supabase_realtime add table {quoted}")
    await database.run(f"alter table {quoted} enable row level security")
    await database.run(f"create policy all_rows on {quoted} for select using (true)")
    socket = await raw()
    await raw_subscribe(
        socket, name, {"event": "*", "schema": "public", "table": table, "filter": "k%1=eq.1"}
    )
    await database.run(f"insert into {quoted} values (1, '(1,2)')")
    assert (await socket.receive())["payload"]["data"]["record"] == {"k%1": 1, 'v"': "(1,2)"}
