"""The list of exports, newest first, page by page.

The cursor of a page is the position of its last export, by creation time and id. So exports that are created meanwhile
do not shift the pages, and every page is found by an index.
"""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiohttp import web

from streamer.errors import BadParameter, one_of, shown
from streamer.http.api.parameters import check_label
from streamer.http.target import Query, read_query, values_of
from streamer.model import Export, Place, State
from streamer.source.catalog.suggestions import similar

PARAMETERS = ("cursor", "label", "limit", "status")
DEFAULT_LIMIT = 20  # exports
MAX_LIMIT = 100  # exports
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CURSOR = re.compile(r"([0-9]{1,17})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")  # microseconds since 1970, id


def read_page(request: web.Request) -> tuple[list[State], str | None, Place | None, int]:
    """Returns states (empty: any), a part of the label, the position before the page, and the maximum of exports.

    Raises BadParameter and BadTarget.
    """
    query = read_query(request)
    if unknown := sorted({name for name, _ in query} - set(PARAMETERS)):
        meant = similar(unknown[0], PARAMETERS)
        allowed = f"did you mean {meant}?" if meant else f"allowed are {', '.join(PARAMETERS)}"
        raise BadParameter(unknown[0], f"unknown parameter; {allowed}")
    return _states(query), _label(query), _position(query), _limit(query)


def cursor(export: Export) -> str:
    """Returns the position of an export in the list, as text."""
    return f"{(export.created_at - EPOCH) // timedelta(microseconds=1)}.{export.id}"


def _states(query: Query) -> list[State]:
    named = [name.strip() for text in values_of(query, "status") for name in text.split(",")]
    for name in named:
        if name not in set(State):
            raise BadParameter("status", f"must be {one_of(list(State))}, not '{shown(name)}'")
    return [State(name) for name in named]


def _label(query: Query) -> str | None:
    text = _single(query, "label")
    return None if text is None else check_label(text)


def _position(query: Query) -> Place | None:
    text = _single(query, "cursor")
    if text is None:
        return None
    if found := CURSOR.fullmatch(text):
        return EPOCH + timedelta(microseconds=int(found[1])), UUID(found[2])
    raise BadParameter("cursor", "must be the nextCursor of another page")


def _limit(query: Query) -> int:
    text = _single(query, "limit")
    if text is None:
        return DEFAULT_LIMIT
    if re.fullmatch(r"[0-9]{1,3}", text) and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise BadParameter("limit", f"must be a number from 1 to {MAX_LIMIT}, not '{shown(text)}'")


def _single(query: Query, name: str) -> str | None:
    texts = values_of(query, name)
    if len(texts) > 1:
        raise BadParameter(name, f"must be given once, not {len(texts)} times")
    return texts[0] if texts else None
