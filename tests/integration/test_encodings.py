"""Sources that are not in UTF-8: texts outside of their encoding are refused, and rows are exported as UTF-8."""

from collections.abc import Iterator

import aiohttp
import pytest

from streamer.config import Names
from streamer.errors import ExportFailure
from streamer.source.source import CursorChoice
from tests.conftest import Serve, made_database
from tests.exporting import create, read_problem
from tests.integration.sources import every_cursor, opened, run_sql, spec

# encoding, a text that it has, and one that it lacks
ENCODINGS = [("LATIN1", "Größe é", "€"), ("WIN1252", "Größe €", "ł"), ("LATIN2", "łódź", "€")]
PLACES = "LC_COLLATE 'C' LC_CTYPE 'C'"
REFUSED = ["word", "word__in", "word__ne", "word__gte", "word__contains", "word__startswith"]
REFUSED += ["short", "code", "mood", "tags", "short__contains", "null"]


@pytest.fixture
def url(request: pytest.FixtureRequest, postgres: str) -> Iterator[str]:
    """A database in the encoding that the test names."""
    with made_database(postgres, f"ENCODING '{request.param}' {PLACES}") as url:
        yield url


@pytest.mark.parametrize(("url", "known", "lacking"), ENCODINGS, indirect=["url"])
async def test_a_text_outside_of_the_encoding_is_refused_at_once(
    url: str, serve: Serve, session: aiohttp.ClientSession, known: str, lacking: str
) -> None:
    await run_sql(
        url,
        "CREATE TYPE mood AS ENUM ('ok')",
        "CREATE TABLE words (n int, word text, short varchar(9), code char(3), mood mood, tags text[])",
        f"INSERT INTO words VALUES (1, '{known}', '{known}', 'a', 'ok', ARRAY['{known}'])",
    )
    server = await serve(source_database_url=url, datasets=Names(("words",)))
    for name in REFUSED:
        value = {"word__in": ["a", lacking], "tags": f"{{{lacking}}}"}.get(name, lacking)
        async with session.post(f"{server.url}/exports/csv", json={"dataset": "words", name: value}) as response:
            problem = await read_problem(response, 400)
        assert problem["parameter"] == name.removesuffix("__in")
        assert "has no equivalent in encoding" in problem["detail"], name
    async with session.get(f"{server.url}/exports") as response:
        assert (await response.json())["exports"] == []
    for name, value in {"word": known, "word__contains": known[-1], "short__in": [known], "null": "ö"}.items():
        export = await create(session, server.url, body={"dataset": "words", "columns": "word", name: value})
        await export.until("completed")
        assert await export.body() == f"word\n{known}\n".encode(), name


@every_cursor
@pytest.mark.parametrize("url", ["LATIN1"], indirect=True)
async def test_rows_of_another_encoding_are_exported_in_utf_8(url: str, choice: CursorChoice) -> None:
    await run_sql(url, 'CREATE TABLE "Wörter" ("größe" text)', "INSERT INTO \"Wörter\" VALUES ('Müller'), ('ÿ')")
    async with opened(url, choice, '"Wörter"') as source:
        exported = await source.export(spec('"Wörter"', ["größe"]))
    assert exported.body == "größe\nMüller\nÿ\n".encode()


@every_cursor
@pytest.mark.parametrize("url", ["SQL_ASCII"], indirect=True)
async def test_sql_ascii_rows_are_exported_only_if_they_are_utf_8(url: str, choice: CursorChoice) -> None:
    """SQL_ASCII stores any bytes. PostgreSQL checks them when it sends them."""
    await run_sql(
        url,
        "CREATE TABLE good (word text); INSERT INTO good VALUES ('Müller €')",
        r"CREATE TABLE bad (word text); INSERT INTO bad VALUES (convert_from('\x4dfc', 'SQL_ASCII'))",
    )
    async with opened(url, choice, "good", "bad") as source:
        assert (await source.export(spec("good", ["word"]))).body == "word\nMüller €\n".encode()
        with pytest.raises(ExportFailure, match='invalid byte sequence for encoding "UTF8": 0xfc'):
            await source.export(spec("bad", ["word"]))
