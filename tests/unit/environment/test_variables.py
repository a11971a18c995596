"""What a value is, and into which variables it does not belong."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import jwt
import pytest

import runhold
from runhold.environment.kinds import Kind, kind_of, passwords_in
from runhold.environment.variables import VARIABLES, mistake, mistakes, secrets_in

SECRET = "x" * 32


def token(role: str | None) -> str:
    return jwt.encode({"role": role} if role else {"sub": "1"}, SECRET, algorithm="HS256")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("sb_secret_N7UND0UgjKTVK", Kind.SECRET_KEY),
        (" sb_publishable_ACJWlzQHlZjB\n", Kind.PUBLISHABLE_KEY),
        (token("service_role"), Kind.SERVICE_JWT),
        (token("anon"), Kind.ANON_JWT),
        (token("authenticated"), Kind.USER_JWT),
        (token("runhold_worker"), Kind.WORKER_JWT),
        (token(None), Kind.OTHER_JWT),
        ("sk-proj-0123456789abcdefgh", Kind.MODEL_KEY),
        ("sbp_0123456789abcdef0123", Kind.PERSONAL_TOKEN),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Kind.WEBHOOK_SECRET),
        ("postgresql://me:hunter2@db:5432/postgres", Kind.DATABASE),
        ("postgresql+psycopg://me:hunter2@db", Kind.DATABASE),
        ("host=db user=me password=hunter2", Kind.DATABASE),
        ("password=hunter2 host=db", Kind.DATABASE),
        ('{"kty": "EC", "d": "abc"}', Kind.JWK),
        ('[{"kty": "EC", "d": "abc"}]', Kind.JWK),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----", Kind.PEM),
        ("smtps://me:hunter2@mail:465", Kind.MAIL_SERVER),
        ("https://abcdefgh.supabase.co", Kind.WEB_URL),
        ("redis://:hunter2@cache", Kind.OTHER_URL),
        ("eyJx.y.z", Kind.OTHER),
        ("super-secret-jwt-token-with-at-least-32-characters-long", Kind.OTHER),
        ("Us <us@example.org>", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_a_value_is_known_by_its_look(value: str, kind: Kind) -> None:
    assert kind_of(value) is kind


GOOD = {
    "SUPABASE_URL": ["https://abcdefgh.supabase.co", "http://127.0.0.1:54321/", "http://[::1]:54321"],
    "SUPABASE_SECRET_KEY": ["sb_secret_abc", token("service_role"), "any-text-of-a-self-hosted-one"],
    "SUPABASE_SERVICE_ROLE_KEY": [token("service_role"), "sb_secret_abc"],
    "SUPABASE_PUBLISHABLE_KEY": ["sb_publishable_abc", token("anon")],
    "SUPABASE_ANON_KEY": [token("anon"), "sb_publishable_abc"],
    "SUPABASE_JWT_SECRET": ["super-secret-jwt-token-with-at-least-32-characters-long", "c2VjcmV0+/=="],
    "SUPABASE_JWT_SIGNING_KEY": ['{"kty":"EC","d":"x"}'],
    "RUNHOLD_WORKER_TOKEN": [token("runhold_worker")],
    "RUNHOLD_DATABASE_URL": ["postgresql://postgres:hunter2@db.example.org:5432/postgres"],
    "RUNHOLD_REDACT_KEY": ["cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="],
    "RUNHOLD_WEBHOOK_SECRET": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    "RUNHOLD_WEBHOOK_SECRET_BILLING": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    "RUNHOLD_SMTP_URL": ["smtps://me:hunter2@mail.example.org", "smtp://mail:587"],
    "RUNHOLD_MAIL_FROM": ["Us <us@example.org>", "us@example.org"],
    "RUNHOLD_REVIEW_URL": ["https://example.org/reviews/{review_id}?run={execution_id}"],
    "RUNHOLD_EMAIL": ["ada@example.com"],
    "RUNHOLD_PASSWORD": ["correct horse battery staple", "p@ss:w/rd"],
    "RUNHOLD_MODEL": ["gpt-5-mini", "openrouter/some-model:free"],
    "OPENAI_API_KEY": ["sk-proj-0123456789abcdefgh", "k", "AIzaSy-key-of-another-provider", token(None)],
    "OPENAI_BASE_URL": [
        "https://api.openai.com/v1",
        "http://me:pass@gateway/v1",
        "https://bücher.example/v1",
    ],
    "OPENAI_ORG_ID": ["org-123"],
    "OPENAI_PROJECT_ID": ["proj_123"],
    "OPENAI_CUSTOM_HEADERS": ["x-team: agents\nx-cost: 1"],
    "HTTP_PROXY": ["http://proxy:3128", "proxy.example.com:3128", "http://me:hunter2@proxy:3128"],
    "https_proxy": ["http://[fd00::1]:3128"],
    "ALL_PROXY": ["socks5://127.0.0.1:1080"],
    "NO_PROXY": ["localhost,127.0.0.1,.example.org,10.0.0.0/8,::1", "*"],
}


def test_what_belongs_there_is_accepted() -> None:
    assert set(VARIABLES) <= {name.upper() for name in GOOD}
    for name, values in GOOD.items():
        for value in values:
            assert mistake(name, value) is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SUPABASE_URL", "postgres://me:hunter2@h/db", "SUPABASE_URL is a database's connection string: give"),
        ("SUPABASE_URL", "https://me:hunter2@x.supabase.co", "SUPABASE_URL has a user name or a password"),
        ("SUPABASE_URL", "https://x.supabase.co/rest/v1", "SUPABASE_URL has more than a host"),
        ("SUPABASE_URL", "https://x.supabase.co?apikey=hunter2", "SUPABASE_URL has more than a host"),
        ("SUPABASE_URL", "x.supabase.co", "SUPABASE_URL must start with http:// or https://"),
        ("SUPABASE_URL", "https://hunter2 .co", "SUPABASE_URL must start with"),
        ("SUPABASE_URL", "http://x:hunter2", "SUPABASE_URL is not a URL that can be read"),
        ("SUPABASE_SECRET_KEY", "sb_publishable_hunter2", "which belongs into SUPABASE_PUBLISHABLE_KEY"),
        ("SUPABASE_SECRET_KEY", token("anon"), "is a JWT of role anon, which belongs into SUPABASE_ANON_KEY"),
        ("SUPABASE_SECRET_KEY", token("runhold_worker"), "which belongs into RUNHOLD_WORKER_TOKEN"),
        ("SUPABASE_SECRET_KEY", "sk-hunter2-0123456789", "which belongs into OPENAI_API_KEY"),
        ("SUPABASE_SECRET_KEY", "postgres://me:hunter2@h/db", "is a database's connection string"),
        ("SUPABASE_SECRET_KEY", "sb_secret_hunter2 ü", "holds characters that no key has"),
        ("SUPABASE_PUBLISHABLE_KEY", "sb_secret_hunter2", "which belongs into SUPABASE_SECRET_KEY"),
        ("SUPABASE_ANON_KEY", token("service_role"), "is a JWT of role service_role"),
        ("SUPABASE_JWT_SECRET", '{"kty":"EC","d":"hunter2"}', "belongs into SUPABASE_JWT_SIGNING_KEY"),
        ("SUPABASE_JWT_SECRET", "-----BEGIN PRIVATE KEY-----\nhunter2", "in PEM format"),
        ("SUPABASE_JWT_SIGNING_KEY", "-----BEGIN PRIVATE KEY-----\nhunter2", "in PEM format"),
        ("RUNHOLD_WORKER_TOKEN", "sb_secret_hunter2", "which belongs into SUPABASE_SECRET_KEY"),
        ("OPENAI_API_KEY", "sb_secret_hunter2", "OPENAI_API_KEY is a secret key of Supabase"),
        ("OPENAI_API_KEY", token("service_role"), "OPENAI_API_KEY is a JWT of role service_role"),
        ("OPENAI_BASE_URL", "sk-hunter2-0123456789", "OPENAI_BASE_URL is a model provider's API key"),
        ("OPENAI_ORG_ID", "hunter2-ü", "OPENAI_ORG_ID holds characters"),
        ("RUNHOLD_WEBHOOK_SECRET_BILLING", "sb_secret_hunter2", "RUNHOLD_WEBHOOK_SECRET_BILLING is"),
        ("RUNHOLD_REVIEW_URL", "https://me:hunter2@example.org", "has a user name or a password"),
        ("RUNHOLD_EMAIL", "hunter2", "RUNHOLD_EMAIL is no e-mail address"),
        ("RUNHOLD_PASSWORD", "sb_secret_hunter2", "which belongs into SUPABASE_SECRET_KEY"),
        ("https_proxy", "sb_secret_hunter2", "https_proxy is a secret key of Supabase"),
        ("HTTP_PROXY", "http://x:99999", "HTTP_PROXY can't be read as an address"),
    ],
)  # fmt: skip
def test_what_does_not_belong_there_is_named_and_never_shown(name: str, value: str, says: str) -> None:
    sentence = mistake(name, value)
    assert sentence is not None
    assert says in sentence
    assert "hunter2" not in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert mistakes({name: value}) == [sentence]
    assert mistakes({name: value}, ["RUNHOLD_MODEL"]) == []


def test_passwords_are_found_as_written_and_as_sent() -> None:
    assert passwords_in("smtps://me:hunter%402@mail") == ("hunter%402", "hunter@2")
    assert passwords_in("me:hunter2@proxy:3128") == ("hunter2",)
    assert passwords_in("postgres://me:hunter2@[h/db") == ("hunter2",)
    assert passwords_in("https://example.org/a@b") == ()
    assert passwords_in("ada@example.org") == ()


def test_secrets_are_found_by_name_and_by_look() -> None:
    environ = {
        "SUPABASE_JWT_SECRET": "hunter2-of-the-project",
        "RUNHOLD_PASSWORD": "hunter2",
        "SOMETHING_ELSE": "sb_secret_elsewhere",
        "https_proxy": "me:hunter3@proxy:3128",
        "OPENAI_API_KEY": "scripted",
        "LANG": "C.UTF-8",
    }
    assert secrets_in(environ) == {
        "hunter2-of-the-project",
        "hunter2",
        "sb_secret_elsewhere",
        "me:hunter3@proxy:3128",
        "hunter3",
    }


OPTIONS = {
    "RUNHOLD_REALTIME",
    "RUNHOLD_POLL",
    "RUNHOLD_START_TIMEOUT",
    "RUNHOLD_GIVE_UP",
    "RUNHOLD_LOG_FORMAT",
}
"""They stand for an option of the command line, which is read by its parser."""

BETWEEN_PROCESSES = {
    "RUNHOLD_API",
    "RUNHOLD_CHAOS_EFFECTS",
    "RUNHOLD_CHAOS_WORKER",
    "RUNHOLD_EXIT_ON_STDIN_EOF",
    "RUNHOLD_JWT_SECRET",
    "RUNHOLD_PUBLISHABLE_KEY",
    "RUNHOLD_REALTIME_DATABASE_URL",
    "RUNHOLD_SECRET_KEY",
}
"""Set by Runhold for a process that it starts, whatever the caller's environment holds."""


def test_no_variable_is_read_that_nobody_checks() -> None:
    """A variable that is new must be listed: in VARIABLES with what it may hold, or above with the reason."""
    found: set[str] = set()
    for path in Path(runhold.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(re.findall(r"\A(?:RUNHOLD|SUPABASE|OPENAI)_[A-Z_]*[A-Z]\Z", node.value))
    assert found == {name for name in VARIABLES if "PROXY" not in name} | OPTIONS | BETWEEN_PROCESSES
