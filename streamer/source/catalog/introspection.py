"""Reads the catalog of datasets from the database.

The allow-list is the setting DATASETS, and nothing else is ever exported. A dataset has the name of its entry; one that
a pattern finds has the qualified name of its relation, quoted only where SQL needs it, so that names are unique. The
file of datasets (configuration.py) can give other names.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from streamer.errors import StartError
from streamer.postgres.driver import Connection, Pool
from streamer.postgres.failures import CONNECTION_LOST, one_line
from streamer.postgres.quoting import quote_relation
from streamer.source.catalog.catalog import Catalog
from streamer.source.catalog.configuration import SETTING as FILE
from streamer.source.catalog.configuration import DatasetConfig, read_configuration
from streamer.source.catalog.configured import configure
from streamer.source.catalog.relations import (
    CatalogChangedError,
    check_unchanged,
    dataset_of,
    find_columns,
    find_matching,
    find_relation,
    is_pattern,
)
from streamer.source.catalog.restrictions import Restrictions
from streamer.source.dataset import Dataset
from streamer.source.session.consistency import CURRENT_SHAPE
from streamer.source.session.snapshot import open_snapshot, savepoint

log = logging.getLogger(__name__)

MAX_READS = 5  # of the catalog in a row, while relations are replaced
CURRENT_TIMEOUT = 2.0  # seconds for an answer; an export compares the shape again

Relations = Mapping[str, asyncpg.Record]
"""Rows of sql/relations.sql by the names of their datasets."""


async def read_catalog(
    pool: Pool, names: Sequence[str], *, file: Path | None = None, role: str | None = None
) -> Catalog:
    """Returns the datasets of the allow-list `names`, as `role` may see them, with the configuration of `file`.

    Raises StartError for a name that is no table or view of this database, and for an invalid file. When the catalog is
    read again, entries that are invalid by then are left out.
    """
    restrictions = Restrictions()
    datasets = await _CatalogReader(pool, names, file, role, restrictions, strict=True).read()
    reader = _CatalogReader(pool, names, file, role, restrictions, strict=False)
    return Catalog(datasets, reader.read, reader.is_current)


class _CatalogReader:
    def __init__(
        self,
        pool: Pool,
        names: Sequence[str],
        file: Path | None,
        role: str | None,
        restrictions: Restrictions,
        *,
        strict: bool,
    ) -> None:
        self._pool = pool
        self._names = names
        self._file = file
        self._role = role
        self._restrictions = restrictions
        self._strict = strict

    async def read(self) -> Mapping[str, Dataset]:
        """Returns the datasets by name. Raises StartError."""
        configs = read_configuration(self._file)
        setting = "DATASET_ROLE" if self._role else "DATASETS"
        for _ in range(MAX_READS):
            try:
                async with open_snapshot(self._pool, role=self._role) as snapshot:
                    return await self._read(snapshot.connection, configs)
            except CatalogChangedError as change:
                log.info("the catalog is read once more: %s", change)
            except asyncpg.PostgresError as error:
                raise StartError(f"{setting}: {one_line(error)}") from error
        raise StartError(f"{setting}: tables are being replaced again and again; try once more")

    async def is_current(self, dataset: Dataset) -> bool:
        """Whether the relation has the columns that were read; True if the database does not answer."""
        relation = quote_relation(dataset.schema, dataset.relation)
        try:
            async with asyncio.timeout(CURRENT_TIMEOUT):
                shape: int | None = await self._pool.fetchval(CURRENT_SHAPE, relation, self._role)
        except asyncpg.PostgresError as error:  # such as a schema that may not be used any more
            return isinstance(error, CONNECTION_LOST)
        except CONNECTION_LOST:
            return True
        return shape == dataset.shape

    async def _read(self, connection: Connection, configs: Mapping[str, DatasetConfig]) -> Mapping[str, Dataset]:
        allowed = await self._find_allowed(connection)
        configured = await self._find_configured(connection, configs, {found["oid"] for found in allowed.values()})
        columns = await find_columns(connection, [found["oid"] for found in allowed.values()])
        await check_unchanged(connection, columns)
        unrestricted = await self._select_unrestricted(connection, configs, allowed, configured)
        datasets = {name: dataset_of(name, found, columns[found["oid"]]) for name, found in unrestricted.items()}
        for name, found in configured.items():
            if name in datasets:
                raise StartError(f"{FILE}: datasets.{name}: DATASETS has another relation of this name")
            async with self._entry(connection):
                dataset = dataset_of(name, found, columns[found["oid"]])
                datasets[name] = await configure(connection, dataset, configs[name], self._restrictions)
        return datasets

    async def _find_allowed(self, connection: Connection) -> Relations:
        """Returns the relations that DATASETS names."""
        relations: dict[str, asyncpg.Record] = {}
        for entry in self._names:
            async with self._entry(connection):
                if is_pattern(entry):
                    for found in await find_matching(connection, entry):
                        relations.setdefault(found["qualified_name"], found)
                else:
                    relations[entry] = await find_relation(connection, entry, "DATASETS")
        return relations

    async def _find_configured(
        self, connection: Connection, configs: Mapping[str, DatasetConfig], allowed: set[int]
    ) -> Relations:
        """Returns the relations that the file names."""
        relations: dict[str, asyncpg.Record] = {}
        for name, config in configs.items():
            async with self._entry(connection):
                found = await find_relation(connection, config.relation or name, f"{FILE}: datasets.{name}")
                if found["oid"] not in allowed:
                    raise StartError(f"{FILE}: datasets.{name}: {found['qualified_name']} is not in DATASETS")
                relations[name] = found
        return relations

    async def _select_unrestricted(
        self, connection: Connection, configs: Mapping[str, DatasetConfig], allowed: Relations, configured: Relations
    ) -> Relations:
        """Returns the allowed relations that the file does not name and neither restricts nor has restricted."""
        restricting = {name: config.relation or name for name, config in configs.items() if config.restricts}
        restricted = {configured[name]["oid"]: text for name, text in restricting.items() if name in configured}
        await self._restrictions.update(connection, restricted, restricting.values())
        oids, invalid = {found["oid"] for found in configured.values()}, configs.keys() - configured.keys()
        left = {name: found for name, found in allowed.items() if found["oid"] not in oids}
        unrestricted = {
            name: found
            for name, found in left.items()
            if name not in invalid and not self._restrictions.forbids(found["oid"], by_pattern=name not in self._names)
        }
        for name in left.keys() - unrestricted.keys():
            log.warning("%s is not offered: %s restricts or restricted it, or a table above it", name, FILE)
        return unrestricted

    @asynccontextmanager
    async def _entry(self, connection: Connection) -> AsyncIterator[None]:
        """Leaves out an entry that is invalid, unless the reader is strict."""
        try:
            async with savepoint(connection):
                yield
        except StartError as error:
            if self._strict:
                raise
            log.warning("no longer offered: %s", error)
