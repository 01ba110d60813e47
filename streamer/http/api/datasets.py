"""What may be exported, as JSON: the names, columns and operators that requests may use."""

from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web

from streamer.errors import NotFound, shown
from streamer.http.api.exports import json_response
from streamer.http.links import LINKS, Links
from streamer.http.target import read_path
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.filters import parameters_of, written_order
from streamer.source.dataset import Column, Dataset

PREFIX = "/datasets/"  # of the path, before a name
FEW = 10  # rows that an example asks for
SAMPLES = {"date": "2024-01-01", "timestamp": "2024-01-01", "timestamptz": "2024-01-01", "bool": "true"}
NUMBERS = "N"  # pg_type.typcategory


class Datasets:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def list(self, request: web.Request) -> web.Response:
        """All of them, without their columns."""
        links = request.app[LINKS]
        return json_response({"datasets": [_summary(dataset, links) for dataset in self._catalog.values()]})

    async def describe(self, request: web.Request) -> web.Response:
        """One of them. Raises NotFound."""
        path = read_path(request)
        named = None if path is None else path.removeprefix(PREFIX)
        if named is not None:
            await self._catalog.refresh(named)
        dataset = None if named is None else self._catalog.get(named)
        if dataset is None:
            name = request.match_info["name"]
            raise NotFound(f"there is no dataset '{shown(name)}'; GET /datasets lists them")
        columns = [_column(column, required=column.name in dataset.required) for column in dataset.columns.values()]
        return json_response({**_summary(dataset, request.app[LINKS]), "columns": columns})


def _summary(dataset: Dataset, links: Links) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "description": dataset.description,
        "estimatedRows": dataset.estimated_rows,
        "requiredFilters": dataset.required,
        "orderBy": written_order(dataset.order),
        "rowLimit": dataset.limit,
        "example": links.to(_example(dataset)),
        "links": {"self": links.to(f"{PREFIX}{quote(dataset.name, safe='')}")},
    }


def _column(column: Column, *, required: bool) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.declared,
        "operators": column.operators,
        "parameters": parameters_of(column),
        "ordered": column.ordered,
        "required": required,
    }


def _example(dataset: Dataset) -> str:
    """A URL that asks for a few rows."""
    required = [(name, _sample(dataset.columns[name])) for name in dataset.required]
    return f"/exports/csv?{urlencode([('dataset', dataset.name), *required, ('limit', str(FEW))])}"


def _sample(column: Column) -> str:
    """A value that reads as the column's type, where one can be told."""
    return SAMPLES.get(column.type, "1" if column.category == NUMBERS else "VALUE")
