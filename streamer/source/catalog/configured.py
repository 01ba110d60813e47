"""Applies an entry of the file of datasets to the dataset of its relation."""

import logging
from collections.abc import Collection, Iterable
from dataclasses import replace

from streamer.errors import StartError
from streamer.model import Condition, Order
from streamer.postgres.driver import Connection
from streamer.source.catalog.checking import WrongValueError, check_values
from streamer.source.catalog.configuration import SETTING, DatasetConfig, texts_of
from streamer.source.catalog.filters import filter_key, read_condition, read_order, unknown_key
from streamer.source.catalog.relations import Columns, find_numbers
from streamer.source.catalog.restrictions import Restrictions
from streamer.source.catalog.suggestions import no_such
from streamer.source.dataset import Column, Dataset

log = logging.getLogger(__name__)


async def configure(
    connection: Connection, dataset: Dataset, config: DatasetConfig, restrictions: Restrictions
) -> Dataset:
    """Returns the dataset as `config` restricts it, without columns that it has hidden before.

    Raises StartError that names the invalid part of the entry.
    """
    place = f"{SETTING}: datasets.{dataset.name}"
    offered = _offered_columns(dataset.columns, config, place)
    for name in await _still_hidden(connection, dataset, config, restrictions, offered):
        log.warning("the column %s of %s is not offered: %s has hidden it by another name", name, dataset.name, SETTING)
        del offered[name]
    if not offered:
        raise StartError(f"{place}: no column is left")
    _check_exist(config.required, offered, f"{place}.required")
    order = _order(dataset.columns, config, place)
    conditions = tuple(_condition(dataset.columns, name, value, place) for name, value in config.filters.items())
    configured = replace(
        dataset,
        columns=offered,
        hidden={name: column for name, column in dataset.columns.items() if name not in offered},
        conditions=conditions,
        order=order,
        required=config.required,
        limit=config.limit,
        description=config.description,
    )
    await _check_values(connection, configured, place)
    return configured


async def _still_hidden(
    connection: Connection,
    dataset: Dataset,
    config: DatasetConfig,
    restrictions: Restrictions,
    offered: Collection[str],
) -> set[str]:
    numbers = await find_numbers(connection, dataset.oid)
    return restrictions.still_hidden(dataset.name, dataset.oid, config, numbers, list(offered))


def _offered_columns(columns: Columns, config: DatasetConfig, place: str) -> dict[str, Column]:
    if config.columns is not None and config.hidden:
        raise StartError(f"{place}: columns and hidden are both given; keep one of them")
    _check_exist(config.columns or (), columns, f"{place}.columns")
    _check_exist(config.hidden, columns, f"{place}.hidden")
    wanted = (name for name in columns if name not in config.hidden) if config.columns is None else config.columns
    return {name: columns[name] for name in wanted}


def _check_exist(names: Iterable[str], columns: Columns, place: str) -> None:
    for name in names:
        if name not in columns:
            raise StartError(f"{place}: {no_such('column', name, columns)}")


def _order(columns: Columns, config: DatasetConfig, place: str) -> tuple[Order, ...]:
    try:
        return tuple(read_order(text, columns) for text in config.order)
    except ValueError as error:
        raise StartError(f"{place}.order_by: {error}") from error


def _condition(columns: Columns, name: str, value: object, place: str) -> Condition:
    key = filter_key(name, columns)
    if key is None:
        sentence = unknown_key(name, name, columns, ()) or no_such("column", name, columns)
        raise StartError(f"{place}.filters.{name}: {sentence}")
    column, operator = key
    try:
        return read_condition(columns[column], operator, texts_of(value))
    except ValueError as error:
        raise StartError(f"{place}.filters.{name}: {error}") from error


async def _check_values(connection: Connection, dataset: Dataset, place: str) -> None:
    try:
        await check_values(connection, dataset, dataset.conditions)
    except WrongValueError as error:
        raise StartError(f"{place}.filters: {error.condition.column}: {error}") from error
