"""A request as the server reads it, without the server."""

from collections.abc import Iterable
from datetime import timedelta

from streamer.http.api.parameters import Parameters
from streamer.model import ExportSpec
from streamer.source.catalog.catalog import Catalog


def read_spec(query: Iterable[tuple[str, str]], body: bytes, catalog: Catalog) -> ExportSpec:
    """The export that query and body ask for. Raises BadParameter and BadBody."""
    parameters = Parameters(query, body)
    return parameters.request(parameters.dataset(catalog), max_ttl=timedelta(days=1)).spec
