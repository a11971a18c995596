"""Plain HTTP to the local stack's Auth, as clients send it, and tokens taken apart."""

from __future__ import annotations

import time
import uuid
from typing import Any, Protocol

import httpx
import jwt

from runhold.local.stack import LocalStack

PASSWORD = "correct horse"


def legacy_key(stack: LocalStack, role: str) -> str:
    """A key of the kind that projects had before publishable and secret keys."""
    claims = {"iss": "supabase", "role": role, "exp": int(time.time()) + 3600}
    return jwt.encode(claims, stack.jwt_secret, algorithm="HS256")


def new_email() -> str:
    return f"{uuid.uuid4()}@example.com"


class Reachable(Protocol):
    """A stack as its clients know it."""

    @property
    def url(self) -> str: ...
    @property
    def publishable_key(self) -> str: ...


class AuthHttp:
    """Requests to `/auth/v1`. `token`: of the user who asks; the key itself is the bearer without one."""

    def __init__(self, stack: Reachable, key: str | None = None) -> None:
        self.stack = stack
        self._http = httpx.Client(timeout=30)
        self.key = key or stack.publishable_key

    def send(self, method: str, path: str, body: Any = None, token: str | None = None) -> httpx.Response:
        headers = {"apikey": self.key, "authorization": f"Bearer {token or self.key}"}
        url = f"{self.stack.url}/auth/v1{path}"
        return self._http.request(method, url, headers=headers, json=body)

    def good(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """The parsed answer of a request that must succeed."""
        answer = self.send(method, path, body, token)
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.content else None

    def refused(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, str]:
        """Status and code of a refusal, whose format is checked."""
        answer = self.send(method, path, body, token)
        error = answer.json()
        assert error["code"] == answer.status_code >= 400
        assert error["msg"]
        return answer.status_code, error["error_code"]

    def sign_in(self, email: str, password: str = PASSWORD) -> Any:
        return self.good("POST", "/token?grant_type=password", {"email": email, "password": password})

    def sign_up(self, email: str, password: str = PASSWORD) -> Any:
        return self.good("POST", "/signup", {"email": email, "password": password})


def claims_of(session: Any) -> dict[str, Any]:
    return jwt.decode(session["access_token"], options={"verify_signature": False})
