"""What other programs may ask the live page, as an OpenAPI description."""

from __future__ import annotations

from typing import Any

Plain = dict[str, Any]


def _kind(kind: str, about: str) -> Plain:
    return {"type": kind, "description": about}


def _list(name: str, of: str) -> Plain:
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{of}"}}
    return {"type": "object", "properties": {name: items}}


def _get(about: str, schema: Plain, parameters: list[Plain] | None = None) -> Plain:
    answers = {"200": {"description": about, "content": {"application/json": {"schema": schema}}}}
    return {"get": {"summary": about, "parameters": parameters or [], "responses": answers}}


def _file(about: str, media: str) -> Plain:
    body = {"schema": {"type": "string", "format": "binary"}}
    answers = {"200": {"description": about, "content": {media: body}}, "404": {"description": "no such result"}}
    return {"get": {"summary": about, "parameters": [_NUMBER], "responses": answers}}


def _query(name: str, about: str, default: int) -> Plain:
    return {
        "name": name,
        "in": "query",
        "description": about,
        "schema": {"type": "integer", "minimum": 0, "default": default},
    }


_NUMBER: Plain = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
_RESULT: Plain = {
    "type": "object",
    "properties": {
        "number": _kind("integer", "counts the results in the order in which they were written"),
        "id": _kind("integer", "names the picture in the paths below"),
        "file": _kind("string", "the picture, relative to the watched folder"),
        "objects": _kind("integer", "how many were found"),
        "finished": _kind("number", "seconds since 1970"),
        "seconds": _kind("number", "that the work took"),
        "latency_s": _kind("number", "seconds from the complete file to the written results"),
        "results": _kind("string", "path of the outputs below the output folder, without their endings"),
        "overlay": _kind("string", "path of the picture with outlines"),
        "table": _kind("string", "path of the table of objects"),
    },
}
_FAILURE: Plain = {
    "type": "object",
    "properties": {
        "name": _kind("string", "the picture"),
        "kind": _kind("string", "failed: set aside; waiting: tried again, or waiting for more files"),
        "failures": _kind("integer", "attempts so far"),
        "note": _kind("string", "the reason"),
        "finished": _kind("number", "time of the last attempt, seconds since 1970; null before the first"),
    },
}
_STEP: Plain = {
    "type": "object",
    "properties": {
        "time": _kind("number", "begin of the step, seconds since 1970"),
        "pictures": _kind("integer", "labelled in it"),
        "objects": _kind("integer", "found in it"),
        "classes": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
}
_PAGING = [
    _query("after", "results with a higher `number`; take `next` of the answer before", 0),
    _query("limit", "at most so many, up to 1000", 100),
]
_RESULTS = _list("results", "Result")
_RESULTS["properties"]["next"] = _kind("integer", "value of `after` for what comes then")

DESCRIPTION: Plain = {
    "openapi": "3.1.0",
    "info": {
        "title": "cellengine watch",
        "version": "1",
        "description": "What a watched folder has given so far. Only GET. Where the page is not bound to the loopback, "
        "send the token as `Authorization: Bearer TOKEN`.",
    },
    "paths": {
        "/api/status": _get("What is done at this moment", {"type": "object"}),
        "/api/results": _get("Results in the order in which they were written", _RESULTS, _PAGING),
        "/api/latest": _get("The last 30 results, the newest first", _list("results", "Result")),
        "/api/results/{id}": _get("One result with its classes and its record", {"type": "object"}, [_NUMBER]),
        "/api/results/{id}/overlay.png": _file("The picture with an outline around every object", "image/png"),
        "/api/results/{id}/objects.csv": _file("The table of objects", "text/csv"),
        "/api/history": _get("Pictures, objects and classes over time", _list("history", "Step")),
        "/api/failures": _get("What was set aside or is tried again", _list("failures", "Failure")),
    },
    "components": {
        "schemas": {"Result": _RESULT, "Failure": _FAILURE, "Step": _STEP},
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{}, {"token": []}],
}
