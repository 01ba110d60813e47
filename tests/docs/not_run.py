"""The blocks that no test runs, each with the reason. All others are run as they are."""

from collections.abc import Mapping

READERS = """import duckdb
import pandas
import polars

pandas.read_csv("users.csv.gz")
polars.read_csv("users.csv.gz")
duckdb.sql("SELECT count(*) FROM 'users.csv.gz'").show()"""

NOT_RUN: Mapping[str, str] = {
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[demo]' && .venv/bin/streamer demo": (
        "it installs packages, and runs until it is stopped; tests/acceptance/test_serve.py runs the demo"
    ),
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest": "CI runs it",
    "docker compose up --build -d --wait": "it needs docker; tests/containers run it",
    "docker compose up --build -d --wait --no-deps app": "it needs docker, and a database of the reader",
    "DATABASE_URL='postgresql://exporter:choose%20one@localhost/shop' DATASETS=customers .venv/bin/streamer serve": (
        "it needs a database of the reader; tests/acceptance/test_own_database.py does this with one of its own"
    ),
    "DATABASE_URL=postgresql://user:password@host/database DATASETS=users,sales.orders streamer serve": (
        "it needs a database of the reader"
    ),
    'import pandas\n\npandas.read_csv("http://127.0.0.1:8080/exports/csv?country_code=US")': (
        "pandas is in the extra `roundtrip`; tests/integration/test_round_trip.py reads exports with it"
    ),
    READERS: "the packages are in the extra `roundtrip`; tests/acceptance/test_compressed_readers.py runs it with them",
}
"""The reason by the text of the block, without the line break at its end."""
