"""Rules of hosted Supabase that the local stack does not have by itself, and the tests' stack does.

All tests of whole runs are under them; these prove that they are in force.
"""

from __future__ import annotations

import httpx
import psycopg
import pytest
from preload import safe_update_library
from supabase_project import Project

FORMS = {
    "plpgsql": "language plpgsql as $$begin update runhold.liveness set one = true {where}; return 1; end$$",
    "cte": """language sql as $$with u as (update runhold.liveness set one = true {where} returning 1)
        select count(*)::integer from u$$""",
    "delete": "language plpgsql as $$begin delete from runhold.metrics_marks {where}; return 1; end$$",
}


@pytest.mark.local_stack("the rule is loaded by the tests' own stack")
@pytest.mark.skipif(safe_update_library() is None, reason="no C compiler: pg-safeupdate's rule is not loaded")
@pytest.mark.parametrize("form", FORMS)
def test_the_api_refuses_an_update_or_delete_without_where_in_a_definers_function(
    stack: Project, form: str
) -> None:
    headers = {"apikey": stack.secret_key, "Content-Profile": "public"}
    with (
        psycopg.connect(stack.database_url, autocommit=True) as connection,
        httpx.Client(base_url=f"{stack.url}/rest/v1/rpc", headers=headers, timeout=30) as client,
    ):
        for name, where in (("hosted_rule_broken", ""), ("hosted_rule_kept", "where true")):
            connection.execute(
                f"create or replace function public.{name}() returns integer security definer set search_path = ''"
                f" {FORMS[form].format(where=where)}"
            )
            connection.execute(f"grant execute on function public.{name}() to service_role")
        try:
            while (kept := client.post("/hosted_rule_kept", json={})).status_code == 404:
                pass  # the API learns of new functions by a notification
            while (broken := client.post("/hosted_rule_broken", json={})).status_code == 404:
                pass
        finally:
            connection.execute("drop function public.hosted_rule_broken(), public.hosted_rule_kept()")
        assert kept.json() == 1
        assert broken.status_code >= 400
        assert broken.json()["code"] == "21000"
        assert "requires a WHERE clause" in broken.json()["message"]
