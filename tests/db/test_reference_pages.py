"""The reference page of tables and functions names what the database has."""

from __future__ import annotations

import re
from pathlib import Path

from world import World

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "tables.md"


def test_page_names_every_table_and_function(world: World) -> None:
    text = PAGE.read_text("utf-8")
    tables = {
        row["relname"]
        for row in world.sql(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        )
    }
    assert tables == set(re.findall(r"`((?:agent_|model_)\w+)`", text.split("## What a client")[0]))
    functions = {
        row["proname"]
        for row in world.sql("select proname from pg_proc where pronamespace = 'public'::regnamespace")
    }
    for name in functions:
        assert (
            f"`{name}(" in text
            or (name.startswith("agent_worker_") and "agent_worker_*" in text)
            or f"`{name}`" in text
        ), name
