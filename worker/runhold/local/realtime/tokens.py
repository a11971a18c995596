"""API keys and JWTs: who is asking, and until when."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import jwt

from runhold.local.realtime import jsontext
from runhold.local.realtime.errors import TokenError
from runhold.local.realtime.jsontext import JsonObject

OPAQUE_KEY_PREFIX = "sb_"

_ALGORITHMS = ["HS256", "HS384", "HS512"]
# The signature is checked by PyJWT; role and exp below. `aud`, `iat`, `nbf` and the rest are not part of the
# protocol.
_SIGNATURE_ONLY = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """Verified claims of one caller.

    `role`: the database role to act as. `subject`: claim `sub`, empty if absent. `expires_at`: seconds since
    1970, None for opaque keys, which never expire. `text`: all claims as JSON text, the `request.jwt.claims`
    of policies.
    """

    role: str
    subject: str
    expires_at: float | None
    text: str


class Keyring:
    """Verifies what callers present: the project's two opaque keys, or JWTs signed with its secret."""

    def __init__(
        self, *, jwt_secret: str, publishable_key: str, secret_key: str, clock: Callable[[], float]
    ) -> None:
        self._jwt_secret = jwt_secret
        self._clock = clock
        self._opaque = {
            publishable_key: _opaque_claims("anon"),
            secret_key: _opaque_claims("service_role"),
        }

    def verify(self, token: str) -> Claims:
        """Claims of a key or JWT. Raises TokenError."""
        known = self._opaque.get(token)
        if known is not None:
            return known
        try:
            decoded = jwt.decode(token, self._jwt_secret, algorithms=_ALGORITHMS, options=_SIGNATURE_ONLY)  # pyright: ignore[reportArgumentType, reportUnknownMemberType]
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError) as exc:
            raise TokenError("JwtSignatureError", "Failed to validate JWT signature") from exc
        except jwt.PyJWTError as exc:
            raise TokenError("MalformedJWT", "The token provided is not a valid JWT") from exc
        claims = cast("JsonObject", decoded)
        role, expires_at, subject = claims.get("role"), claims.get("exp"), claims.get("sub")
        if (
            not isinstance(role, str)
            or isinstance(expires_at, bool)
            or not isinstance(expires_at, int | float)
        ):
            raise TokenError("InvalidJWTToken", "Fields `role` and `exp` are required in JWT")
        if expires_at <= self._clock():
            raise TokenError(
                "InvalidJWTToken", self.expired_text(expires_at), handshake_text="Token has expired"
            )
        return Claims(
            role=role,
            subject=subject if isinstance(subject, str) else "",
            expires_at=float(expires_at),
            text=jsontext.dumps(claims),
        )

    def expired_text(self, expires_at: float) -> str:
        """What a client is told when its token's time is over."""
        return f"Token has expired {max(0, int(self._clock() - expires_at))} seconds ago"

    def seconds_left(self, claims: Claims) -> float | None:
        """Seconds until the claims expire, negative when they have; None = never."""
        return None if claims.expires_at is None else claims.expires_at - self._clock()


def _opaque_claims(role: str) -> Claims:
    return Claims(role=role, subject="", expires_at=None, text=jsontext.dumps({"role": role}))
