"""Courses, lessons and content: what the stub teaches, kept in memory and forgotten at exit.

`GET /content/v1/read/{id}` answers in Sunbird's envelope; `/api/courses` and `/api/lessons` are plain JSON.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from dataclasses import asdict, dataclass, field

from aiohttp import web


@dataclass(slots=True)
class Lesson:
    """One lesson of a course; `minutes` is how long it takes."""

    id: str
    course: str
    title: str
    minutes: int = 30


@dataclass(frozen=True, slots=True)
class Course:
    """A course; its lessons are looked up by its id."""

    id: str
    title: str
    subject: str
    language: str = "en"


def _courses() -> dict[str, Course]:
    rows = [
        Course("algebra-1", "Algebra for beginners", "mathematics"),
        Course("photosynthesis", "How plants eat light", "biology"),
        Course("hindi-poems", "Poems to read aloud", "literature", "hi"),
    ]
    return {course.id: course for course in rows}


def _lessons() -> dict[str, Lesson]:
    rows = [
        Lesson("1", "algebra-1", "What a letter may stand for", 20),
        Lesson("2", "algebra-1", "Both sides of the sign", 35),
        Lesson("3", "photosynthesis", "Leaves under the microscope", 40),
        Lesson("4", "hindi-poems", "Rhythm and breath", 25),
    ]
    return {lesson.id: lesson for lesson in rows}


@dataclass
class Catalog:
    """The stub's whole stock."""

    courses: dict[str, Course] = field(default_factory=_courses)
    lessons: dict[str, Lesson] = field(default_factory=_lessons)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(5))

    def add(self, course: str, title: str, minutes: int) -> Lesson:
        """Add a lesson under the next free number and return it."""
        lesson = Lesson(str(next(self._ids)), course, title, minutes)
        self.lessons[lesson.id] = lesson
        return lesson


CATALOG = web.AppKey("catalog", Catalog)
routes = web.RouteTableDef()


def _refuse(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


@routes.get("/content/v1/read/{id}")
async def read_content(request: web.Request) -> web.Response:
    """One piece of content in Sunbird's response envelope; `do_missing…` is not found."""
    identifier = request.match_info["id"]
    found = not identifier.startswith("do_missing")
    message = str(uuid.uuid4())
    envelope = {
        "id": "api.content.read",
        "ver": "1.0",
        "ts": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        "params": {
            "resmsgid": message,
            "msgid": message,
            "err": None if found else "NOT_FOUND",
            "status": "successful" if found else "failed",
            "errmsg": None if found else f"Content not found with id: {identifier}",
        },
        "responseCode": "OK" if found else "RESOURCE_NOT_FOUND",
        "result": {
            "content": {
                "identifier": identifier,
                "name": "How plants eat light",
                "contentType": "Resource",
                "mimeType": "application/pdf",
                "status": "Live",
                "language": ["English"],
                "gradeLevel": ["Class 6"],
                "artifactUrl": f"/api/download/65536?name={identifier}.pdf",
            }
        }
        if found
        else {},
    }
    return web.json_response(envelope, status=200 if found else 404)


@routes.get("/api/courses")
async def list_courses(request: web.Request) -> web.Response:
    """All courses, or those of `?language=`."""
    language = request.query.get("language")
    courses = [asdict(c) for c in request.app[CATALOG].courses.values() if language in (None, c.language)]
    return web.json_response({"courses": courses, "count": len(courses)})


@routes.get("/api/courses/{id}")
async def read_course(request: web.Request) -> web.Response:
    """One course with its lessons."""
    catalog = request.app[CATALOG]
    course = catalog.courses.get(request.match_info["id"])
    if course is None:
        return _refuse(404, "no such course")
    lessons = [asdict(lesson) for lesson in catalog.lessons.values() if lesson.course == course.id]
    return web.json_response({**asdict(course), "lessons": lessons})


@routes.get("/api/lessons")
async def list_lessons(request: web.Request) -> web.Response:
    """All lessons, or those of `?course=`."""
    course = request.query.get("course")
    lessons = [asdict(lesson) for lesson in request.app[CATALOG].lessons.values() if course in (None, lesson.course)]
    return web.json_response({"lessons": lessons, "count": len(lessons)})


@routes.post("/api/lessons")
async def create_lesson(request: web.Request) -> web.Response:
    """Add a lesson from `{"course", "title", "minutes"?}`: 201 with its address, or 400 or 422 with what is wrong."""
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return _refuse(400, "the body must be JSON")
    catalog = request.app[CATALOG]
    if not isinstance(body, dict) or body.get("course") not in catalog.courses:
        return _refuse(422, "course: no such course")
    title, minutes = body.get("title"), body.get("minutes", 30)
    if not isinstance(title, str) or not title or not isinstance(minutes, int):
        return _refuse(422, "title must be text and minutes a whole number")
    lesson = catalog.add(body["course"], title, minutes)
    return web.json_response(asdict(lesson), status=201, headers={"Location": f"/api/lessons/{lesson.id}"})


@routes.get("/api/lessons/{id}")
async def read_lesson(request: web.Request) -> web.Response:
    """One lesson."""
    lesson = request.app[CATALOG].lessons.get(request.match_info["id"])
    return _refuse(404, "no such lesson") if lesson is None else web.json_response(asdict(lesson))


@routes.delete("/api/lessons/{id}")
async def delete_lesson(request: web.Request) -> web.Response:
    """Forget a lesson: 204, or 404 where there is none."""
    if request.app[CATALOG].lessons.pop(request.match_info["id"], None) is None:
        return _refuse(404, "no such lesson")
    return web.Response(status=204)
