"""Datasets of a database that was not made for streamer: 40 relations of every kind with hostile names.

Each is exported by every cursor that supports it, and compared with the output of psql, whose names are quoted by the
server and not by streamer.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin
from uuid import UUID

import aiohttp
import msgspec
import pytest

from streamer.config import Names
from streamer.errors import ExportFailure, StartError
from streamer.model import Bounds, Condition, Operator
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.introspection import read_catalog
from streamer.source.source import CursorChoice
from tests.acceptance.process import streamer
from tests.conftest import Serve, connected, made_database
from tests.exporting import create, read_problem
from tests.integration.sources import (
    PLAIN_SESSION,
    Opened,
    Plain,
    SinkAt,
    assert_conforms,
    cursors_of_views,
    entered_as,
    eventually,
    every_cursor,
    made_role,
    plain_session,
    pooled,
    run_sql,
    spec,
)
from tests.integration.test_blocks import SMALL_RANGES, WORKER_READS
from tests.polling import until
from tests.programs import PSQL

SCHEMA = 'Hostile "Schema". $1'
PATTERN = '"Hostile ""Schema"". $1".*'
NAMES = [
    'say "hi"', '"', "it's", "two words", " lead", "trail ", "UPPER", "Mixed", "select", "user", "table", "null", "a.b",
    "a,b", ";", "--", "/*", "$1", "$$", "%s", "naïve", "таблица", "北京", "\U0001f600", "back\\slash", "tab\t",
    "line\nfeed", "{}", "order", "limit", "a*b", "=1+1",
]  # fmt: skip

# Beside the tables of NAMES: one for each kind of relation, in the schema that is on the search path.
RELATIONS = """
    CREATE TYPE mood AS ENUM ('ok', 'so, so', '"');
    CREATE DOMAIN code AS char(3);
    CREATE TYPE pair AS (number integer, words text);
    CREATE TABLE every_type (
        a smallint, b integer, c bigint, d numeric, e numeric(10, 2), f real, g double precision, h money, i boolean,
        j text, k varchar(9), l char(5), m "char", n name, o bytea, p date, q time, r timetz, s timestamp,
        t timestamptz, u interval, v uuid, w json, x jsonb, y inet, z cidr, aa macaddr, ab macaddr8, ac bit(3),
        ad bit varying, ae point, af line, ag lseg, ah box, ai path, aj polygon, ak circle, al tsvector, am tsquery,
        an int[], ao text[], ap int4range, aq tstzrange, ar int4multirange, "as" mood, at code, au pair, av pair[],
        aw oid, ax regclass, ay pg_lsn, az xid, ba xid8, bb tid, bc jsonpath, bd pg_snapshot, be mood[]
    );
    INSERT INTO every_type DEFAULT VALUES;
    INSERT INTO every_type VALUES (
        -1, 2, 3, 'NaN', 4.50, 1e-45, -0.0, 12.5, true, E',"\\n', '', 'é', '"', '$1', '\\x00ff', 'infinity', '24:00',
        '12:00+01', '0044-03-15 12:00 BC', '2024-02-29 12:00+00', '1 mon -1 day', gen_random_uuid(), '{"a": ","}',
        '[1, null]', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', B'101', B'1',
        '(1,2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0)]', '((0,0))', '<(0,0),1>', 'a b', 'a & b',
        '{1,NULL}', ARRAY['a,b', '"', NULL], '[1,5)', '[2024-01-01 00:00+00,)', '{[1,2)}', 'so, so', 'x', '(1,"a,b")',
        '{"(1,a)"}', 5, 'pg_class', '0/1', '7', '7', '(0,1)', '$.a', '10:20:', '{ok,"so, so"}'
    );
    CREATE TABLE computed (n int, doubled int GENERATED ALWAYS AS (n * 2) STORED, own int GENERATED ALWAYS AS IDENTITY);
    INSERT INTO computed (n) SELECT generate_series(1, 50);
    CREATE TABLE parted (n int, words text) PARTITION BY RANGE (n);
    CREATE TABLE "part, low" PARTITION OF parted FOR VALUES FROM (0) TO (500);
    CREATE TABLE part_high PARTITION OF parted FOR VALUES FROM (500) TO (MAXVALUE) PARTITION BY LIST (words);
    CREATE TABLE part_others PARTITION OF part_high DEFAULT;
    INSERT INTO parted SELECT n, 'row ' || n FROM generate_series(1, 1000) n;
    CREATE TABLE parent (n int); CREATE TABLE child (more text) INHERITS (parent);
    INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 'x');
    CREATE VIEW "A View" AS SELECT n, words FROM parted WHERE n % 7 = 0;
    CREATE MATERIALIZED VIEW kept AS SELECT n, words FROM parted WHERE n % 2 = 0;
    CREATE TABLE changed (gone int, a text, b text); ALTER TABLE changed DROP gone;
    INSERT INTO changed VALUES (E'\\\\.', NULL), ('', 'NULL');
    CREATE TABLE empty (a int, b text);
    ANALYZE parted, kept;
"""
KINDS = ["every_type", "computed", "parted", "parent", '"A View"', "kept", "changed", "empty"]
VIEWS = {'"A View"'}


@pytest.fixture(scope="module")
def foreign(postgres: str) -> Iterator[str]:
    """The URL of a database that was not made for streamer."""
    with made_database(postgres) as url:
        asyncio.run(_make(url))
        yield url


async def _make(url: str) -> None:
    async with connected(url) as connection:
        schema = await connection.fetchval("SELECT quote_ident($1)", SCHEMA)
        await connection.execute(f"CREATE SCHEMA {schema}; {RELATIONS}")
        for place, name in enumerate(NAMES):
            table, other = await connection.fetchrow("SELECT quote_ident($1), quote_ident($2)", name, NAMES[place - 1])
            await connection.execute(
                f"CREATE TABLE {schema}.{table} ({table} int, {other} text, plain text DEFAULT 'x');"
                f" INSERT INTO {schema}.{table} SELECT n, '$1 ' || n FROM generate_series(1, {place + 1}) n"
            )


async def by_psql(url: str, sql: str) -> bytes:
    """Returns the output of COPY by the psql of the embedded PostgreSQL."""
    settings = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in PLAIN_SESSION.items())
    process = await asyncio.create_subprocess_exec(
        *[str(PSQL), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", f"{sql}"],
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PGOPTIONS": settings, "PGCLIENTENCODING": "UTF8"},
    )
    written, _ = await process.communicate()
    assert process.returncode == 0
    return written


async def quoted(plain: Plain, *names: str) -> list[str]:
    return [await plain.fetchval("SELECT quote_ident($1)", name) for name in names]


@every_cursor
async def test_forty_relations_with_hostile_names_are_exported_as_psql_copies_them(
    foreign: str, choice: CursorChoice
) -> None:
    async with pooled(foreign) as pool, plain_session(foreign) as plain:
        catalog = await read_catalog(pool, [PATTERN, *KINDS])
        assert len(catalog) == len(NAMES) + len(KINDS) == 40
        source = Opened(pool, catalog, choice)
        for name, dataset in catalog.items():
            if choice is CursorChoice.BLOCKS and name in VIEWS:
                continue
            schema, relation, *columns = await quoted(plain, dataset.schema, dataset.relation, *dataset.columns)
            asked = f"SELECT {', '.join(columns)} FROM {schema}.{relation}"
            expected = await by_psql(foreign, f"COPY ({asked}) TO STDOUT WITH (FORMAT csv, HEADER)")
            assert_conforms(await source.export(spec(name, tuple(dataset.columns))), expected)


async def test_hostile_names_are_requested_over_http(
    foreign: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    """With the names of GET /datasets, and a filter, a column list and an order for each."""
    server = await serve(source_database_url=foreign, datasets=Names((PATTERN, *KINDS)))
    async with session.get(f"{server.url}/datasets") as response:
        listed = (await response.json())["datasets"]
    assert len(listed) == 40
    for place, dataset in enumerate(listed[: len(NAMES)]):
        async with session.get(server.url + dataset["links"]["self"]) as response:
            described = await response.json()
        number, text, _ = (column["name"] for column in described["columns"])
        body = {
            "dataset": dataset["name"],
            "columns": [text, number],
            "filters": {f"{number}__gte": 1, f"{text}__startswith": "$"},
            "order_by": [f"-{number}"],
            "header": False,
            "limit": 1,
        }
        async with session.get(f"{server.url}/exports/csv", json=body) as response:
            assert response.status == 200, await response.text()
            lines = await response.read()
        assert lines.endswith(b"\n"), dataset
        assert lines.count(b"\n") == 1, place


async def test_every_example_url_works(foreign: str, serve: Serve, session: aiohttp.ClientSession) -> None:
    server = await serve(source_database_url=foreign, datasets=Names((PATTERN, *KINDS)))
    async with session.get(f"{server.url}/datasets") as response:
        listed = (await response.json())["datasets"]
    for dataset in listed:
        async with session.get(server.url + dataset["example"]) as response:
            assert response.status == 200, dataset
            await response.read()
        async with session.head(server.url + dataset["links"]["self"]) as response:
            assert (response.status, response.content_type) == (200, "application/json"), dataset


FOREIGN_TABLE = """
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname '{database}', host '{host}', port '{port}');
    CREATE USER MAPPING FOR CURRENT_USER SERVER itself OPTIONS (user '{role}');
    CREATE TABLE "here, now" AS SELECT n, 'row ' || n AS words FROM generate_series(1, 3000) n;
    CREATE FOREIGN TABLE "there" (n int, words text) SERVER itself OPTIONS (table_name 'here, now');
"""


@cursors_of_views
async def test_a_foreign_table_is_exported_as_psql_copies_it(database: str, plain: Plain, choice: CursorChoice) -> None:
    if not await plain.fetchval("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw')"):
        pytest.skip("this server has no postgres_fdw")
    name, role, host, port = await plain.fetchrow(
        "SELECT current_database(), current_user, split_part(current_setting('unix_socket_directories'), ',', 1),"
        " current_setting('port')"
    )
    await plain.execute(FOREIGN_TABLE.format(database=name, role=role, host=host, port=port))
    async with pooled(database) as pool:
        source = Opened(pool, await read_catalog(pool, ["there"]), choice)
        expected = await by_psql(database, "COPY (SELECT n, words FROM there) TO STDOUT WITH (FORMAT csv, HEADER)")
        assert expected.count(b"\n") == 3001
        assert_conforms(await source.export(spec("there", ["n", "words"])), expected)


# Patterns


MATCHED = """
    CREATE SCHEMA sales; CREATE SCHEMA "Odd.Schema";
    CREATE TABLE sales.orders (id int); CREATE TABLE sales.order_lines (id int);
    CREATE TABLE sales."Order Lines" (id int);
    CREATE TABLE sales.parted (id int) PARTITION BY LIST (id);
    CREATE TABLE sales.part PARTITION OF sales.parted DEFAULT;
    CREATE VIEW sales.a_view AS SELECT 1 AS id; CREATE MATERIALIZED VIEW sales.kept AS SELECT 1 AS id;
    CREATE SEQUENCE sales.counter; CREATE INDEX ON sales.orders (id);
    CREATE TABLE "Odd.Schema"."T" (id int); CREATE TABLE users (id int);
"""


@pytest.fixture(scope="module")
def matched(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        asyncio.run(run_sql(url, MATCHED))
        yield url


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        (["sales.*"], ['sales."Order Lines"', "sales.a_view", "sales.kept", "sales.order_lines", "sales.orders",
                       "sales.parted"]),
        (["sales.order*"], ["sales.order_lines", "sales.orders"]),
        (["sales.order_*"], ["sales.order_lines"]),
        (["SALES . ORDERS*"], ["sales.orders"]),
        (['"Odd.Schema".*'], ['"Odd.Schema"."T"']),
        (["sales.order_*s", "users"], ["sales.order_lines", "users"]),
        (["sales.orders", "sales.o*"], ["sales.orders", "sales.order_lines"]),
        (["sales.part"], ["sales.part"]),
    ],
)  # fmt: skip
async def test_a_pattern_offers_all_relations_that_it_matches(
    matched: str, entries: list[str], names: list[str]
) -> None:
    async with pooled(matched, size=1) as pool:
        assert list(await read_catalog(pool, entries)) == names


@pytest.mark.parametrize(
    "entry", ["*", "sales.x*", "nowhere.*", "Sales*.orders", "a.b.*", '"sales.*', "sales.counter*"]
)
async def test_an_invalid_pattern_or_one_without_a_match_stops_the_start(matched: str, entry: str) -> None:
    async with pooled(matched, size=1) as pool:
        with pytest.raises(StartError, match=r"^DATASETS: '[^\n]*$"):
            await read_catalog(pool, ["users", entry])


async def test_a_pattern_leaves_out_relations_that_the_role_may_not_read(database: str, plain: Plain) -> None:
    async with made_role(plain) as role:
        await plain.execute(
            "CREATE SCHEMA sales; CREATE TABLE sales.secrets (a int);"
            " CREATE TABLE sales.few (open int, closed int); CREATE TABLE sales.whole (a int, b int);"
            f" GRANT USAGE ON SCHEMA sales TO {role}; GRANT SELECT ON sales.whole TO {role};"
            f" GRANT SELECT (open) ON sales.few TO {role}"
        )
        async with pooled(database, size=1) as pool:
            catalog = await read_catalog(pool, ["sales.*"], role=role)
        assert {name: list(dataset.columns) for name, dataset in catalog.items()} == {
            "sales.few": ["open"],
            "sales.whole": ["a", "b"],
        }


# The file


TABLES = """
    CREATE SCHEMA sales;
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE sales.orders (id int PRIMARY KEY, tenant int, total numeric, card text, mood mood, placed timestamptz);
    INSERT INTO sales.orders SELECT n, n % 3, n * 1.5, 'card ' || n, (ARRAY['good', 'bad'])[1 + n % 2]::mood,
        timestamptz '2024-01-01 00:00+00' + n * interval '1 day' FROM generate_series(1, 100) n;
    CREATE TABLE other (id int);
"""
FILE = """
    [datasets.orders]
    relation = "sales.orders"
    description = "One row for each order of tenant 1"
    hidden = ["card", "tenant"]
    filters = { tenant = 1, mood = "good", placed__gte = 2024-01-05 }
    required = ["placed"]
    order_by = "-id"
    limit = 5

    [datasets."all orders"]
    relation = "sales.orders"
    columns = ["total", "id"]
"""


@pytest.fixture(scope="module")
def tables(postgres: str) -> Iterator[str]:
    with made_database(postgres) as url:
        asyncio.run(run_sql(url, TABLES))
        yield url


async def refined(url: str, folder: Path, text: str, *names: str) -> Catalog:
    file = folder / "datasets.toml"
    file.write_text(text, encoding="utf-8")
    async with pooled(url, size=1) as pool:
        return await read_catalog(pool, names or ["sales.*", "other"], file=file)


async def test_a_dataset_offers_only_what_the_file_configures(
    tables: str, tmp_path: Path, serve: Serve, session: aiohttp.ClientSession
) -> None:
    (tmp_path / "datasets.toml").write_text(FILE, encoding="utf-8")
    server = await serve(
        source_database_url=tables,
        datasets=Names(("sales.*", "other")),
        datasets_file=tmp_path / "datasets.toml",
    )

    async def get(path: str, **parameters: Any) -> tuple[int, Any]:
        async with session.get(server.url + path, params=parameters) as response:
            text = await response.text()
            return response.status, text if response.content_type == "text/csv" else await response.json()

    _, listed = await get("/datasets")
    assert [each["name"] for each in listed["datasets"]] == ["other", "orders", "all orders"]
    _, orders = await get("/datasets/orders")
    assert [column["name"] for column in orders["columns"]] == ["id", "total", "mood", "placed"]
    assert orders["description"] == "One row for each order of tenant 1"
    assert (orders["requiredFilters"], orders["rowLimit"], orders["orderBy"]) == (["placed"], 5, ["-id"])

    assert (await get(orders["example"]))[0] == 200
    wanted = [n for n in range(100, 4, -1) if n % 3 == 1 and n % 2 == 0]
    status, text = await get("/exports/csv", dataset="orders", columns="id", placed__lt="2025-01-01")
    assert (status, text.split()) == (200, ["id", *map(str, wanted[:5])])
    status, text = await get("/exports/csv", dataset="orders", columns="id", placed__gt="2024-02-01", order_by="id",
                             limit="2")  # fmt: skip
    later = sorted(n for n in wanted if n > 31)
    assert text.split() == ["id", *map(str, later[:2])]
    assert (await get("/exports/csv", dataset="all orders", limit="1")) == (200, "total,id\n1.5,1\n")

    for parameters, named in [
        ({"dataset": "orders"}, "placed"),
        ({"dataset": "orders", "placed__ne": "2024-01-01"}, "placed"),
        ({"dataset": "orders", "placed__isnull": "false"}, "placed"),
        ({"dataset": "orders", "placed__gte": "2024-01-01", "columns": "card"}, "columns"),
        ({"dataset": "orders", "placed__gte": "2024-01-01", "card": "x"}, "card"),
        ({"dataset": "orders", "placed__gte": "2024-01-01", "tenant": "2"}, "tenant"),
        ({"dataset": "orders", "placed__gte": "2024-01-01", "order_by": "card"}, "order_by"),
        ({"dataset": "sales.orders"}, "dataset"),
    ]:
        status, problem = await get("/exports/csv", **parameters)
        assert (status, problem["parameter"]) == (400, named), problem
        assert "card 1" not in str(problem)
    status, problem = await get(f"/datasets/{quote('sales.orders')}")
    assert status == 404


async def test_the_status_reports_a_row_limit(
    tables: str, tmp_path: Path, serve: Serve, session: aiohttp.ClientSession
) -> None:
    (tmp_path / "datasets.toml").write_text(FILE, encoding="utf-8")
    server = await serve(
        source_database_url=tables, datasets=Names(("sales.*",)), datasets_file=tmp_path / "datasets.toml"
    )
    cut = await create(session, server.url, dataset="orders", placed__gte="2024-01-01")
    status = await cut.until("completed")
    assert (status["truncated"], status["progress"]["totalRows"]) == (True, 5)
    whole = await create(session, server.url, dataset="orders", placed__gte="2024-04-01")
    status = await whole.until("completed")
    assert (status["truncated"], status["progress"]["totalRows"]) == (False, 2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[datasets.orders", "is not TOML"),
        ("[datasets.orders]\nrelation = 1", r"datasets\.orders\.relation must be a text"),
        ("[datasets.orders]\nrelations = 'x'", "there is no entry 'relations'; did you mean relation"),
        ("[dataset.orders]", "unknown entry 'dataset'; each dataset is a table"),
        ("[datasets.orders]\nlimit = 0", "limit"),
        ("[datasets.orders]\nlimit = 1.5", "limit"),
        ("[datasets.orders]", "datasets.orders: there is no table or view 'orders' in the database; set its relation"),
        ("[datasets.x]\nrelation = 'pg_authid'", "datasets.x: pg_catalog.pg_authid is not in DATASETS"),
        ("[datasets.x]\nrelation = 'sales.orders'\ncolumns = ['nope']", "columns: there is no column 'nope'"),
        ("[datasets.x]\nrelation = 'sales.orders'\ncolumns = []", "no column is left"),
        ("[datasets.x]\nrelation = 'sales.orders'\ncolumns = ['id']\nhidden = ['card']", "keep one of them"),
        ("[datasets.x]\nrelation = 'sales.orders'\nhidden = ['id']\nrequired = ['id']", "required: there is no column"),
        ("[datasets.x]\nrelation = 'sales.orders'\norder_by = ['nope']", "order_by: there is no column 'nope'"),
        ("[datasets.x]\nrelation = 'sales.orders'\nfilters = {nope = 1}", "filters.nope: there is no column 'nope'"),
        ("[datasets.x]\nrelation = 'sales.orders'\nfilters = {id = 'x'}", "filters.id: must be a whole number"),
        ("[datasets.x]\nrelation = 'sales.orders'\nfilters = {id = []}", "filters.id: must not be an empty list"),
        ("[datasets.x]\nrelation = 'sales.orders'\nfilters = {id = {a = 1}}", "filters.id: must be a text"),
        ("[datasets.x]\nrelation = 'sales.orders'\nfilters = {id__gte = [1, 2]}", "filters.id__gte: must be one value"),
        ("[datasets.x]\nrelation = 'sales.orders'\nfilters = {mood = 'odd'}", "filters: mood: invalid input value"),
        ("[datasets.other]\nrelation = 'sales.orders'", "DATASETS has another relation of this name"),
    ],
)
async def test_an_invalid_file_stops_the_start_with_one_line(
    tables: str, tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(StartError, match=rf"^DATASETS_FILE: [^\n]*{complaint}[^\n]*$"):
        await refined(tables, tmp_path, text)


async def test_a_missing_file_stops_the_start(tables: str, tmp_path: Path) -> None:
    async with pooled(tables, size=1) as pool:
        with pytest.raises(StartError, match=r"^DATASETS_FILE: [^\n]*cannot be read: No such file"):
            await read_catalog(pool, ["other"], file=tmp_path / "nothing")


# Changes


async def test_a_relation_that_has_moved_is_found_again(database: str, plain: Plain) -> None:
    await plain.execute("CREATE SCHEMA elsewhere; CREATE TABLE moving AS SELECT 1 AS a")
    name = await plain.fetchval("SELECT quote_ident(current_database())")
    await plain.execute(f"ALTER DATABASE {name} SET search_path TO public, elsewhere")
    async with pooled(database) as pool:
        source = Opened(pool, await read_catalog(pool, ["moving"]), CursorChoice.AUTO)
        await plain.execute("ALTER TABLE moving SET SCHEMA elsewhere")
        assert_conforms(await source.export(spec("moving", ["a"])), b"a\n1\n")
        await plain.execute("ALTER TABLE elsewhere.moving RENAME a TO b")
        with pytest.raises(ExportFailure, match="the column 'a' of the dataset 'moving' is no longer offered"):
            await source.export(spec("moving", ["a"]))
        assert list(source.catalog["moving"].columns) == ["b"]
        await plain.execute("DROP TABLE elsewhere.moving")
        with pytest.raises(ExportFailure, match="does not exist"):
            await source.export(spec("moving", ["b"]))
        assert "moving" not in source.catalog


async def test_sighup_reads_datasets_and_file_again_and_keeps_them_if_the_file_is_invalid(
    database: str, plain: Plain, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    await plain.execute("CREATE SCHEMA sales; CREATE TABLE sales.orders (id int)")
    file = tmp_path / "datasets.toml"
    file.write_text("[datasets.orders]\nrelation = 'sales.orders'\n")
    environment = {"DATABASE_URL": database, "DATASETS": "sales.*", "DATASETS_FILE": str(file), "API_PORT": "0"}
    async with streamer("serve", folder=tmp_path, environment=environment) as process:
        url = await process.url()

        async def names() -> list[str]:
            async with session.get(f"{url}/datasets") as response:
                return [dataset["name"] for dataset in (await response.json())["datasets"]]

        assert await names() == ["orders"]
        await plain.execute("CREATE TABLE sales.later (id int)")
        file.write_text("[datasets.renamed]\nrelation = 'sales.orders'\n")
        process.signal(signal.SIGHUP)
        await process.said("the datasets were read again: 2")
        assert await names() == ["sales.later", "renamed"]
        file.write_text("[datasets.renamed")
        process.signal(signal.SIGHUP)
        await process.said("the datasets stay as they were: DATASETS_FILE: ")
        assert await names() == ["sales.later", "renamed"]
        await plain.execute("DROP TABLE sales.orders")
        file.write_text("[datasets.renamed]\nrelation = 'sales.orders'\n")
        process.signal(signal.SIGHUP)
        await process.said("no longer offered: DATASETS_FILE: datasets.renamed: there is no table or view")

        async def gone() -> bool:
            return await names() == ["sales.later"]

        await until(gone, "the table that is gone is offered no more")


# The role


POLICIES = """
    CREATE TABLE guarded AS SELECT n, n % 2 = 0 AS even, repeat('x', 100) AS filling FROM generate_series(1, 20000) n;
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY even_ones ON guarded USING (even);
    CREATE TABLE secrets AS SELECT 1 AS a;
    ANALYZE guarded;
"""


@pytest.mark.parametrize("choice", CursorChoice)
async def test_row_policies_of_the_role_apply(database: str, plain: Plain, choice: CursorChoice) -> None:
    await plain.execute(POLICIES)
    async with made_role(plain) as role, pooled(database) as pool:
        await plain.execute(f"GRANT SELECT ON guarded TO {role}")
        catalog = await read_catalog(pool, ["guarded", "secrets"], role=role)
        source = Opened(pool, catalog, choice, role=role)
        copy = "COPY (SELECT n, even FROM guarded) TO STDOUT WITH (FORMAT csv, HEADER)"
        expected = await by_psql(database, f"SET ROLE {role}; {copy}")
        assert expected.count(b"\n") == 10_001
        assert_conforms(await source.export(spec("guarded", ["n", "even"])), expected)
        with pytest.raises(ExportFailure, match="permission denied for table secrets"):
            await source.export(spec("secrets", ["a"]))
        assert await pool.fetchval("SELECT current_user = session_user")  # nothing of it stays in the pool


async def test_an_export_of_blocks_uses_the_role_on_every_connection(database: str, plain: Plain) -> None:
    """The owner of the tables sees every row, and the policy fails for anybody but the role."""
    await plain.execute(POLICIES)

    async def until_a_worker_reads() -> None:
        await eventually(plain, WORKER_READS)

    async with made_role(plain) as role, pooled(database) as pool:
        await plain.execute(
            f"GRANT SELECT ON guarded TO {role};"
            f" CREATE POLICY only_the_role ON guarded AS RESTRICTIVE USING (1 / (current_user = '{role}')::int = 1)"
        )
        catalog = await read_catalog(pool, ["guarded"], role=role)
        source = Opened(pool, catalog, CursorChoice.BLOCKS, role=role, reading=SMALL_RANGES)
        sink = SinkAt(1, until_a_worker_reads)
        await source.drain(spec("guarded", ["n"]), sink.take)
        assert sink.received.body == b"n\n" + b"".join(b"%d\n" % n for n in range(2, 20_001, 2))


@pytest.mark.parametrize("choice", CursorChoice)
async def test_an_export_reads_within_its_bounds(database: str, plain: Plain, choice: CursorChoice) -> None:
    """The role of the bounds sees even numbers; neither it nor their condition depends on the request."""
    await plain.execute(POLICIES)
    async with made_role(plain) as role, pooled(database) as pool:
        await plain.execute(f"GRANT SELECT ON guarded TO {role}")
        source = Opened(pool, await read_catalog(pool, ["guarded"]), choice, reading=SMALL_RANGES)
        above = Condition(column="n", operator=Operator.GT, values=("10000",))
        bounds = Bounds(role=role, conditions=(above,))
        wanted = msgspec.structs.replace(spec("guarded", ["n"]), bounds=bounds)
        received = await source.export(wanted)
        assert received.body == b"n\n" + b"".join(b"%d\n" % n for n in range(10_002, 20_001, 2))
        cut = msgspec.structs.replace(wanted, limit=5, bounds=msgspec.structs.replace(bounds, limit=3))
        assert (await source.export(cut)).body.count(b"\n") == 4
        for column in ("missing", "filling"):
            forced = Condition(column=column, operator=Operator.EQ, values=("y",))
            limited = msgspec.structs.replace(wanted, bounds=Bounds(conditions=(forced,)))
            if column == "missing":
                with pytest.raises(ExportFailure, match="cannot be limited"):
                    await source.export(limited)
            else:
                assert (await source.export(limited)).body == b"n\n"


@pytest.mark.parametrize("role", ["nobody_has_this_role", 'odd "name"', "Mixed; DROP TABLE users"])
async def test_a_role_that_does_not_exist_stops_the_start_with_one_line(database: str, role: str) -> None:
    async with pooled(database, size=1) as pool:
        with pytest.raises(StartError, match=r"^DATASET_ROLE: role \"[^\n]*\" does not exist$"):
            await read_catalog(pool, [], role=role)


async def test_a_role_that_may_not_be_set_stops_the_start_with_one_line(database: str, plain: Plain) -> None:
    async with made_role(plain) as user, made_role(plain) as role:
        with pytest.raises(StartError, match=r"^DATASET_ROLE: permission denied to set role [^\n]*$"):
            async with pooled(entered_as(database, user), size=1) as pool:
                await read_catalog(pool, [], role=role)


async def test_values_are_checked_as_the_role(
    database: str, plain: Plain, serve: Serve, session: aiohttp.ClientSession
) -> None:
    await plain.execute("CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE moods AS SELECT 'ok'::mood AS mood")
    async with made_role(plain) as role:
        await plain.execute(f"GRANT SELECT ON moods TO {role}")
        server = await serve(source_database_url=database, datasets=Names(("moods",)), dataset_role=role)
        async with session.get(f"{server.url}/exports/csv?dataset=moods&mood=ok") as response:
            assert await response.read() == b"mood\nok\n"
        async with session.get(f"{server.url}/exports/csv?dataset=moods&mood=no") as response:
            problem = await read_problem(response, 400)
        assert problem["detail"] == 'mood: invalid input value for enum mood: "no"'
        assert await _exports(server.settings.database_url) == 1


async def _exports(url: str) -> int:
    async with connected(url) as connection:
        found: int = await connection.fetchval("SELECT count(*) FROM streamer.exports")
        return found


# Over HTTP


async def test_a_dialect_is_declared_in_the_fields_of_live_and_sealed_downloads(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    asked = {"country_code": "US", "columns": "id", "limit": "3", "header": "false", "bom": "true"}
    async with session.get(f"{server.url}/exports/csv", params=asked) as response:
        live, streamed = dict(response.headers), await response.read()
    async with session.get(urljoin(f"{server.url}/exports/csv", live["Content-Location"])) as response:
        sealed, whole = dict(response.headers), await response.read()
    assert streamed == whole
    assert whole.startswith(b"\xef\xbb\xbf")
    assert whole.count(b"\n") == 3
    for fields in (live, sealed):
        assert fields["Content-Type"] == "text/csv; charset=utf-8; header=absent"
        assert "users_US_" in fields["Content-Disposition"]
    assert live["Content-Disposition"] == sealed["Content-Disposition"]
    async with session.head(f"{server.url}/exports/csv", params=asked) as response:
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8; header=absent"


async def test_an_export_of_zero_bytes_is_downloaded(serve: Serve, session: aiohttp.ClientSession) -> None:
    server = await serve()
    export = await create(session, server.url, header="false", limit="0")
    status = await export.until("completed")
    assert (status["truncated"], status["progress"]["bytes"], status["progress"]["percentage"]) == (True, 0, 100)
    async with session.get(export.download) as response:
        assert (response.status, await response.read(), response.content_length) == (200, b"", 0)
    async with session.get(export.download, headers={"Range": "bytes=0-"}) as response:
        assert response.status == 416
    async with session.get(f"{server.url}/exports/csv", params={"header": "false", "limit": "0"}) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_an_export_has_the_same_file_name_after_a_restart(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    """The date is that of the row, not of the request."""
    server = await serve()
    export = await create(session, server.url, country_code="DE", limit="1")
    await export.until("completed")
    async with connected(database) as connection:
        await connection.execute("UPDATE streamer.exports SET created_at = '2026-02-03 23:59+00'")
    after = await serve()
    async with session.get(after.url + export.path) as response:
        assert response.headers["Content-Disposition"] == 'attachment; filename="users_DE_2026-02-03.csv"'


async def test_the_same_key_with_another_order_is_another_request(serve: Serve, session: aiohttp.ClientSession) -> None:
    server = await serve()
    statuses = []
    for query in ("order_by=id", "order_by=id", "order_by=-id", "order_by=id&limit=5", "order_by=id&null=x"):
        async with session.post(f"{server.url}/exports/csv?{query}", headers={"Idempotency-Key": "one"}) as response:
            statuses.append(response.status)
    assert statuses == [202, 202, 422, 422, 422]


OLD = "12345678-1234-4678-9234-567812345678"


async def test_exports_of_an_older_version_are_served_and_run(
    serve: Serve, database: str, session: aiohttp.ClientSession
) -> None:
    """A row whose spec knows of no order, no limit and no dialect but two characters."""
    server = await serve()
    old = '{"dataset":"users","columns":["id"],"conditions":[{"column":"id","operator":"lte","values":["3"]}],' \
        '"dialect":{"delimiter":",","quote":"\\""}}'  # fmt: skip
    async with connected(database) as connection:
        await connection.execute(
            "INSERT INTO streamer.exports (id, state, spec, server_id, lease_until)"
            " VALUES ($2, 'pending', $1, gen_random_uuid(), now() - interval '1 hour')",
            old,
            UUID(OLD),
        )
    await serve(export_storage_path=server.settings.export_storage_path)
    async with session.get(f"{server.url}/exports/{OLD}") as response:
        assert (await response.json())["query"] == {"id__lte": "3", "delimiter": ",", "quoteChar": '"'}

    async def completed() -> bool:
        async with session.get(f"{server.url}/exports/{OLD}") as response:
            return bool((await response.json())["status"] == "completed")

    await until(completed, "the export of the version before is run")
    async with session.get(f"{server.url}/exports/{OLD}/download") as response:
        assert await response.read() == b"id\n1\n2\n3\n"
