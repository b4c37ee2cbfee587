"""What every resource shares: reading a request, and turning every fault into an answer of contract §4.

Errors are `{"error", "status_code", "reason", "request_id"}`, on bad input with `fields` too.  An unexpected
exception is logged with its cause and answered 500 without it.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from gateway.admin.service import IdentityService
from gateway.admin.shapes import LIMIT, MAX_LIMIT
from gateway.core.answers import reason_phrase
from gateway.core.errors import ConflictError, InvalidInputError, NotFoundError, OverloadError, StoreError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Where an application keeps the operations.
SERVICE = web.AppKey("service", IdentityService)

_log = logging.getLogger("postern.admin")


async def body_of(request: web.Request) -> object:
    """The request's JSON.  Raises 400 when it is none."""
    try:
        return json.loads(await request.text())
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="The body is not valid JSON") from None


def limit_of(request: web.Request) -> int:
    """`limit` of the query."""
    text = request.query.get("limit", str(LIMIT))
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_LIMIT:
        raise InvalidInputError("the input is not valid", {"limit": f"must be a number between 1 and {MAX_LIMIT}"})
    return int(text)


def cursor_of(request: web.Request) -> str | None:
    """`cursor` of the query."""
    return request.query.get("cursor")


def secret_answer(data: Any, *, status: int) -> web.Response:
    """An answer that holds a secret: nobody may keep it."""
    return web.json_response(data, status=status, headers={"Cache-Control": "no-store"})


def error_answer(status: int, text: str, **members: Any) -> web.Response:
    """An error as contract §4 has it, with further members."""
    error = {
        "error": text,
        "status_code": status,
        "reason": reason_phrase(status),
        "request_id": secrets.token_hex(16),
        **members,
    }
    return web.json_response(error, status=status)


@web.middleware
async def answer_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn exceptions into answers."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        answer = error_answer(error.status, error.text if error.status == 400 and error.text else error.reason)
        answer.headers.update(allow)
        return answer
    except NotFoundError as error:
        return error_answer(404, str(error))
    except ConflictError as error:
        return error_answer(409, str(error))
    except InvalidInputError as error:
        return error_answer(422, str(error), fields=error.fields)
    except OverloadError as error:
        answer = error_answer(503, "Service overloaded")
        answer.headers["Retry-After"] = str(error.retry_after)
        return answer
    except StoreError as error:
        _log.error("the identity store cannot be asked: %s", error)
        return error_answer(500, "The identity store cannot be asked")
    except Exception:  # noqa: BLE001  # the last resort: logged with its cause
        _log.exception("an admin request failed: %s %s", request.method, request.path)
        return error_answer(500, "An unexpected error occurred")
