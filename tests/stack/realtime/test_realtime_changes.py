"""`postgres_changes` as supabase-py sees it."""

from typing import Any

from realtime_stack import Database, Inbox, Stack


async def subscribe(client: Any, topic: str, callback: Any, **binding: Any) -> Any:
    """A joined channel whose subscription the server has confirmed."""
    channel, system = client.channel(topic), Inbox()
    channel.on_system(system)
    channel.on_postgres_changes(binding.pop("event", "*"), callback, **binding)
    await channel.subscribe()
    await system.until(lambda items: any(item.message == "Subscribed to PostgreSQL" for item in items))
    return channel


async def test_insert_update_and_delete_arrive_in_order(client: Any, database: Database, name: str) -> None:
    await database.run(f"create table {name} (id int primary key, title text)")
    await database.run(f"alter publication supabase_realtime add table {name}")
    inbox = Inbox()
    await subscribe(await client(), name, inbox, table=name)
    await database.run(f"insert into {name} values (1, 'a')")
    await database.run(f"update {name} set title = 'b'")
    await database.run(f"delete from {name}")
    insert, update, delete = [item["data"] for item in await inbox.count(3)]
    assert (insert["type"], insert["record"]) == ("INSERT", {"id": 1, "title": "a"})
    assert "old_record" not in insert
    assert (update["record"], update["old_record"]) == ({"id": 1, "title": "b"}, {"id": 1})
    assert delete["old_record"] == {"id": 1}
    assert "record" not in delete
    assert insert["columns"] == [{"name": "id", "type": "int4"}, {"name": "title", "type": "text"}]


async def test_row_security_sends_inserts_to_the_owner_only_and_deletes_to_all(
    client: Any, database: Database, stack: Stack, name: str
) -> None:
    await database.run(f"create table {name} (id int primary key, owner uuid)")
    await database.run(f"alter table {name} enable row level security")
    await database.run(f"create policy own on {name} for select to authenticated using (owner = auth.uid())")
    await database.run(f"alter publication supabase_realtime add table {name}")
    one, two = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    first, second = Inbox(), Inbox()
    await subscribe(await client(token=stack.token(sub=one)), name, first, table=name)
    await subscribe(await client(token=stack.token(sub=two)), name, second, table=name)
    await database.run(f"insert into {name} values (1, '{one}')")
    await database.run(f"insert into {name} values (2, '{two}')")
    # The check reads the row as it is: it must not be gone before it was sent.
    await first.count(1)
    await second.count(1)
    await database.run(f"delete from {name} where id = 1")
    assert [item["data"].get("record") for item in await first.count(2)] == [{"id": 1, "owner": one}, None]
    assert [item["data"].get("record") for item in await second.count(2)] == [{"id": 2, "owner": two}, None]
    assert first.items[1]["data"]["old_record"] == {"id": 1}
