"""What is recognised as a credential, and what is left as it was."""

from __future__ import annotations

import pytest

from runhold.credentials import hide_credentials

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("key sb_secret_abc-DEF_123 refused", "key [secret] refused"),
        (f"401 for {JWT}.", "401 for [secret]."),
        ("Incorrect API key provided: sk-proj-0123456789abcdefgh.", "Incorrect API key provided: [secret]."),
        ("{'Authorization': 'Bearer abcdef0123456789=='}", "{'Authorization': 'Bearer [secret]'}"),
        ("authorization: basic dXNlcjpwYXNz", "authorization: basic [secret]"),
        (
            "postgresql://app:hun/ter2@db:5432/x",
            "postgresql://app:hun/ter2@db:5432/x",
        ),  # no URL: / ends the host
        ("postgresql://app:hunter2@db:5432/x", "postgresql://app:[secret]@db:5432/x"),
        ("redis://:hunter2@cache", "redis://:[secret]@cache"),
        ("host=db user=app password=hunter2 port=1", "host=db user=app password=[secret] port=1"),
        ("password='two words' host=db", "password=[secret] host=db"),
        ("GET /x?api_key=abc&page=2", "GET /x?api_key=[secret]&page=2"),
        ("password: Field required", "password: Field required"),
        ("token bearer of the ring", "token bearer of the ring"),
        ("see https://example.org:8080/a@b", "see https://example.org:8080/a@b"),
        ("max_tokens=50 left", "max_tokens=50 left"),
        ("write to ada@example.org", "write to ada@example.org"),
    ],
)
def test_credentials_are_hidden_and_the_rest_stays(text: str, told: str) -> None:
    assert hide_credentials(text) == told
    assert hide_credentials(told) == told
