"""GET /datasets: the names, columns and operators that requests may use, as JSON."""

from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web

from streamer.errors import NotFound
from streamer.http.api.exports import json_response
from streamer.http.links import LINKS, Links
from streamer.http.target import read_path
from streamer.schema import ColumnDescription, DatasetDescription, DatasetLinks, DatasetList, DatasetSummary
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.filters import parameters_of, written_order
from streamer.source.catalog.suggestions import no_such
from streamer.source.dataset import Column, Dataset

PREFIX = "/datasets/"  # of the path, before a name
EXAMPLE_ROWS = 10
SAMPLES = {"date": "2024-01-01", "timestamp": "2024-01-01", "timestamptz": "2024-01-01", "bool": "true"}
NUMBERS = "N"  # pg_type.typcategory


class Datasets:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def list(self, request: web.Request) -> web.Response:
        """`GET /datasets`: every dataset, without its columns."""
        links = request.app[LINKS]
        datasets = tuple(summary(dataset, links) for dataset in self._catalog.values())
        return json_response(DatasetList(datasets=datasets))

    async def describe(self, request: web.Request) -> web.Response:
        """`GET /datasets/{name}`: one dataset with its columns. Raises NotFound."""
        path = read_path(request)
        name = None if path is None else path.removeprefix(PREFIX)
        if name is not None:
            await self._catalog.refresh(name)
        dataset = None if name is None else self._catalog.get(name)
        if dataset is None:
            raise NotFound(no_such("dataset", request.match_info["name"], self._catalog))
        return json_response(description(dataset, request.app[LINKS]))


def summary(dataset: Dataset, links: Links) -> DatasetSummary:
    return DatasetSummary(
        name=dataset.name,
        description=dataset.description,
        estimated_rows=dataset.estimated_rows,
        required_filters=dataset.required,
        order_by=tuple(written_order(dataset.order)),
        row_limit=dataset.limit,
        example=links.to(_example(dataset)),
        links=DatasetLinks(self_=links.to(f"{PREFIX}{quote(dataset.name, safe='')}")),
    )


def description(dataset: Dataset, links: Links) -> DatasetDescription:
    columns = tuple(_column(column, required=column.name in dataset.required) for column in dataset.columns.values())
    return DatasetDescription(**msgspec.structs.asdict(summary(dataset, links)), columns=columns)


def _column(column: Column, *, required: bool) -> ColumnDescription:
    return ColumnDescription(
        name=column.name,
        type=column.declared,
        operators=column.operators,
        parameters=tuple(parameters_of(column)),
        ordered=column.ordered,
        required=required,
    )


def _example(dataset: Dataset) -> str:
    """Returns the path and query of an export of a few rows."""
    required = [(name, _sample(dataset.columns[name])) for name in dataset.required]
    return f"/exports/csv?{urlencode([('dataset', dataset.name), *required, ('limit', str(EXAMPLE_ROWS))])}"


def _sample(column: Column) -> str:
    """Returns a value that can be read as the column's type, or VALUE for a type that is not known."""
    return SAMPLES.get(column.type, "1" if column.category == NUMBERS else "VALUE")
