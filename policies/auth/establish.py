"""Who is calling, established for one request: the credential is found, judged, and what follows is settled.

Apart from the settings of `auth`, so that it can be compiled: this runs once a request.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from gateway.core.answers import (
    BAD_REQUEST,
    MALFORMED_TOKEN,
    MISSING_CREDENTIAL,
    READ_ONLY_KEY,
    WRONG_SCHEME,
    Answer,
)
from gateway.core.context import Context
from gateway.core.decision import ALLOW, Abstain, Decision, Deny, Pending
from gateway.core.http import fold
from gateway.core.identity import Consumer, Identity
from gateway.core.ports import Authenticator
from policies.auth.api_key import ApiKey
from policies.auth.carriers import Carriers, Nothing

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
#: What PHP makes of a parameter's name.
_PHP_NAME = bytes.maketrans(b" .", b"__")
_OVERRIDE_HEADERS = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})

_NOTHING: dict[Nothing, Answer] = {
    Nothing.MISSING: MISSING_CREDENTIAL,
    Nothing.OTHER_SCHEME: WRONG_SCHEME,
    Nothing.MALFORMED: MALFORMED_TOKEN,
    Nothing.REPEATED: BAD_REQUEST,
}

Headers = tuple[tuple[bytes, bytes], ...]


class Establish:
    """Establishes callers by one route's settings.

    `carriers` says where credentials are looked for, `hide` whether the LMS is spared them, `anonymous` who stands
    for a request without any; `challenge` are the `WWW-Authenticate` lines of a 401.
    """

    def __init__(
        self, port: Authenticator, carriers: Carriers, hide: bool, anonymous: str | None, challenge: Headers
    ) -> None:
        self._port = port
        self._api_key = ApiKey(port)
        self._carriers = carriers
        self._hide = hide
        self._anonymous = anonymous
        self._stand_in: Identity | None = None
        self._challenge = challenge
        self._refusals = {
            answer: Deny(answer, headers=challenge if answer.status == 401 else ()) for answer in _NOTHING.values()
        }

    def check(self, context: Context) -> Decision | Pending[Decision]:
        """Establish `context.identity`, or refuse."""
        found = self._carriers.find(context)
        if isinstance(found, Nothing):
            return self._without(found, context)
        token, carried = found
        outcome = self._api_key.authenticate(token, context)
        if isinstance(outcome, Identity):
            return self._accept(outcome, token, carried, context)
        if isinstance(outcome, Pending):
            return self._later(outcome, token, carried, context)
        return self._refuse(outcome)

    def recheck(self, context: Context) -> Decision | Pending[Decision]:
        """Judge again after a wait: what was verified may have been revoked meanwhile."""
        identity = context.identity
        if identity is None or self._port.still_valid(identity, context.now):
            return ALLOW
        granted = context.granted
        if not isinstance(granted, bytes):
            return self._without(Nothing.MISSING, context)
        outcome = self._api_key.authenticate(granted, context)
        if isinstance(outcome, Identity):
            context.identity = outcome
            return self._permit(outcome, context)
        if isinstance(outcome, Pending):  # the change is being read from the store
            decision: Pending[Decision] = Pending(on_cancel=outcome.cancel)

            def settle(answer: Identity | Deny) -> None:
                if isinstance(answer, Identity):
                    context.identity = answer
                    decision.resolve(self._permit(answer, context))
                else:
                    decision.resolve(self._refuse(answer))

            outcome.then(settle, decision.fail)
            return decision
        return self._refuse(outcome)

    def _accept(self, identity: Identity, token: bytes, carried: tuple[bytes, ...], context: Context) -> Decision:
        context.identity = identity
        context.granted = token
        if self._hide:
            context.hidden += carried
        credential = identity.credential
        if credential is not None and credential.read_only:
            return self._permit(identity, context)
        return ALLOW

    def _permit(self, identity: Identity, context: Context) -> Decision:
        """A read-only key reads: no other method, and nothing that an LMS might take for another method."""
        credential = identity.credential
        if credential is None or not credential.read_only:
            return ALLOW
        if context.method not in _SAFE:
            return Deny(READ_ONLY_KEY)
        if context.query and _names_a_method(context.query):
            return Deny(READ_ONLY_KEY)
        if any(fold(name) in _OVERRIDE_HEADERS for name in context.index):
            return Deny(READ_ONLY_KEY)
        return ALLOW

    def _later(
        self, outcome: Pending[Identity | Deny], token: bytes, carried: tuple[bytes, ...], context: Context
    ) -> Pending[Decision]:
        decision: Pending[Decision] = Pending(on_cancel=outcome.cancel)

        def settle(answer: Identity | Deny) -> None:
            if isinstance(answer, Identity):
                decision.resolve(self._accept(answer, token, carried, context))
            else:
                decision.resolve(self._refuse(answer))

        outcome.then(settle, decision.fail)
        return decision

    def _refuse(self, outcome: Deny | Abstain) -> Deny:
        if isinstance(outcome, Abstain):
            return self._refusals[MALFORMED_TOKEN]
        if outcome.answer.status == 401:
            return Deny(outcome.answer, headers=self._challenge + outcome.headers)
        return outcome

    def _without(self, nothing: Nothing, context: Context) -> Decision:
        if nothing is Nothing.MISSING and self._anonymous is not None:
            consumer = self._port.consumer(self._anonymous)
            if consumer is not None:
                context.identity = self._stand_in_for(consumer)
                return ALLOW
        return self._refusals[_NOTHING[nothing]]

    def _stand_in_for(self, consumer: Consumer) -> Identity:
        identity = self._stand_in
        if identity is None or identity.consumer is not consumer:
            identity = self._stand_in = Identity(consumer, anonymous=True)
        return identity


def _names_a_method(query: bytes) -> bool:
    """Is there a `_method` parameter, as any server might read it?  Some split at `;` or know `_method[]`."""
    for parameter in query.replace(b";", b"&").split(b"&"):
        name = unquote_to_bytes(parameter.partition(b"=")[0].replace(b"+", b" ")).lower()
        name = name.lstrip(b" ").partition(b"[")[0].partition(b"\0")[0]
        if name.translate(_PHP_NAME) == b"_method":
            return True
    return False
