"""Accounts: a login form, a cookie session, and who is asking (`/api/users/me`).

The demo accounts' passwords are their names.  A login returns only to a path of this server, so that the
form is no open redirect.
"""

from __future__ import annotations

import hmac
import html
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web

COOKIE = "lms_session"


@dataclass(frozen=True, slots=True)
class User:
    """A person of the school."""

    id: str
    username: str
    name: str
    role: str


USERS = {
    user.username: user
    for user in (
        User("u-1001", "student", "Asha Student", "student"),
        User("u-2001", "teacher", "Tomas Teacher", "teacher"),
        User("u-9001", "admin", "Ada Admin", "admin"),
    )
}


@dataclass
class Sessions:
    """Who holds which cookie."""

    held: dict[str, User] = field(default_factory=dict)

    def open(self, user: User) -> str:
        """Start a session and return the cookie's value."""
        token = secrets.token_urlsafe(24)
        self.held[token] = user
        return token


SESSIONS = web.AppKey("sessions", Sessions)
routes = web.RouteTableDef()

_FORM = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Log in · Stub LMS</title>
<h1>Stub LMS</h1>{message}
<form method="post" action="/login">
<input type="hidden" name="next" value="{next}">
<label>User name <input name="username" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button>
</form></html>
"""


def safe_return(wanted: str, hosts: tuple[str, ...]) -> str:
    """Where a login may return to: a path, or an absolute URL whose host and port is one of `hosts`; else `/`."""
    if "\\" in wanted or any(ord(letter) < 33 for letter in wanted):
        return "/"
    if wanted.startswith("/") and not wanted.startswith("//"):
        return wanted
    try:
        url = urlsplit(wanted)
    except ValueError:
        return "/"
    return wanted if url.scheme in ("http", "https") and url.netloc in hosts else "/"


def _own_hosts(request: web.Request) -> tuple[str, ...]:
    return tuple(name for name in (request.headers.get("X-Forwarded-Host"), request.host) if name)


def _page(request: web.Request, wanted: str, message: str = "", status: int = 200) -> web.Response:
    back = html.escape(safe_return(wanted, _own_hosts(request)))
    note = f"<p>{html.escape(message)}</p>" if message else ""
    page = _FORM.format(message=note, next=back)
    return web.Response(text=page, content_type="text/html", status=status, headers={"Cache-Control": "no-store"})


@routes.get("/login")
async def login_page(request: web.Request) -> web.Response:
    """The login form; `?next=` is where it returns to."""
    return _page(request, request.query.get("next", "/"))


@routes.post("/login")
async def login(request: web.Request) -> web.Response:
    """Take the form: 303 back with a session cookie, or 401 with the form again."""
    form = await request.post()
    name, password, wanted = (str(form.get(field_name, "")) for field_name in ("username", "password", "next"))
    user = USERS.get(name)
    if user is None or not hmac.compare_digest(password.encode(), user.username.encode()):
        return _page(request, wanted or "/", "Wrong user name or password.", 401)
    response = web.Response(status=303, headers={"Location": safe_return(wanted or "/", _own_hosts(request))})
    response.set_cookie(COOKIE, request.app[SESSIONS].open(user), httponly=True, samesite="Lax", path="/")
    return response


@routes.post("/logout")
async def logout(request: web.Request) -> web.Response:
    """End the session."""
    request.app[SESSIONS].held.pop(request.cookies.get(COOKIE, ""), None)
    response = web.Response(status=204)
    response.del_cookie(COOKIE, path="/")
    return response


@routes.get("/api/users/me")
async def who_am_i(request: web.Request) -> web.Response:
    """`{id, username, name, role}` of the cookie's holder, or 401."""
    user = request.app[SESSIONS].held.get(request.cookies.get(COOKIE, ""))
    if user is None:
        return web.json_response({"error": "not logged in"}, status=401)
    body = {"id": user.id, "username": user.username, "name": user.name, "role": user.role}
    return web.json_response(body, headers={"Cache-Control": "no-store"})
