"""What operators do to tables while they are exported: reloads, swaps, partitions that come and go, new columns.

A subject is a relation or several whose states are described together. Every change is one transaction, with pauses
between its statements, and with the next generation in the rows that it writes. None of the changes gives way: no
`lock_timeout`, no `NOWAIT`. What ends one of them is a deadlock, and exports must not be a part of one.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.faults.ledger import CANARY, EXCEL, LAST, NARROW, WHOLE, Asked
from tests.integration.sources import Plain

MANY = 1_850  # rows of a kilobyte, in more blocks than one page of the block cursor has, and than AUTO needs for it
SOME = 450  # in 65 blocks
FEW = 90
PAUSES = (0.0, 0.02, 0.2, 1.3)  # seconds; the last one is longer than deadlock_timeout
CHANCES = (24, 4, 2, 1)
NAMES = "id, generation, filler"
COLUMNS = "id integer NOT NULL, generation integer NOT NULL, filler text NOT NULL"


@dataclass
class Hand:
    """The connection of the changes of one subject."""

    plain: Plain
    chance: random.Random
    role: str
    generation: int = 0

    async def do(self, *statements: str) -> None:
        for statement in statements:
            await self.plain.execute(statement)
            await self.pause()

    async def pause(self) -> None:
        await asyncio.sleep(self.chance.choices(PAUSES, CHANCES)[0])

    async def names(self, query: str) -> list[str]:
        """The first column, in an order that the seed may shuffle."""
        found = [str(row[0]) for row in await self.plain.fetch(query)]
        self.chance.shuffle(found)
        return found

    def rows(self, count: int, *more: str, first: int = 1) -> str:
        """A SELECT of rows of this generation; their number tells generations apart, too."""
        filler = f"repeat(chr({97 + self.generation % 26}), 1000)"
        last = first + count + self.generation % 7
        listed = ", ".join(("n", str(self.generation), filler, *more))
        return f"SELECT {listed} FROM generate_series({first}, {last}) AS n"

    def touched(self, table: str) -> str:
        """An UPDATE of every row of a table to this generation."""
        return f"UPDATE {table} SET generation = {self.generation}"


Change = Callable[[Hand], Awaitable[None]]


class Subject:
    """`changes` are transactions, `upkeep` moves rows and changes none, and may refuse to be in a transaction."""

    name: str
    asked: Sequence[Asked]

    async def make(self, hand: Hand) -> None:
        raise NotImplementedError

    @property
    def changes(self) -> Sequence[Change]:
        raise NotImplementedError

    @property
    def upkeep(self) -> Sequence[str]:
        return ()

    async def prepare(self, hand: Hand) -> None:
        """In a transaction before that of the change. What it makes is seen by snapshots that are older than it."""

    def detachable(self, parts: Sequence[str]) -> str | None:
        """The partition, if any, that may be detached CONCURRENTLY."""
        return None


def asked_of(dataset: str) -> list[Asked]:
    """The usual questions; as the role, the answers are the same unless a policy says otherwise."""
    return [Asked(dataset, question, as_role) for question in (WHOLE, NARROW, LAST) for as_role in (False, True)]


class PlainTable(Subject):
    name = "single"
    asked = asked_of("single")

    async def make(self, hand: Hand) -> None:
        await self._create(hand, "single")
        await self._create(hand, "twin")
        await hand.do("CREATE SCHEMA aside")

    @property
    def changes(self) -> Sequence[Change]:
        return (
            *(self.reload, self.replace, self.update, self.empty, self.recreate, self.take_the_name),
            *(self.swap_names, self.move_away, self.rewrite),
        )

    @property
    def upkeep(self) -> Sequence[str]:
        return ("VACUUM FULL single", "VACUUM single", "ANALYZE single", "REINDEX TABLE single", "CLUSTER single")

    async def reload(self, hand: Hand) -> None:
        await hand.do("TRUNCATE single", f"INSERT INTO single {hand.rows(MANY)}")

    async def replace(self, hand: Hand) -> None:
        await hand.do("DELETE FROM single", f"INSERT INTO single {hand.rows(MANY)}")

    async def update(self, hand: Hand) -> None:
        await hand.do(hand.touched("single"))

    async def empty(self, hand: Hand) -> None:
        await hand.do("TRUNCATE single")

    async def recreate(self, hand: Hand) -> None:
        await hand.do("DROP TABLE single")
        await self._create(hand, "single")

    async def take_the_name(self, hand: Hand) -> None:
        await self._create(hand, "coming")
        await hand.do("ALTER TABLE single RENAME TO gone", "ALTER TABLE coming RENAME TO single", "DROP TABLE gone")

    async def swap_names(self, hand: Hand) -> None:
        await hand.do("TRUNCATE twin", f"INSERT INTO twin {hand.rows(MANY)}", "ALTER TABLE single RENAME TO between")
        await hand.do("ALTER TABLE twin RENAME TO single", "ALTER TABLE between RENAME TO twin")

    async def move_away(self, hand: Hand) -> None:
        await hand.do("DROP TABLE IF EXISTS aside.single", "ALTER TABLE single SET SCHEMA aside")
        await self._create(hand, "single")

    async def rewrite(self, hand: Hand) -> None:
        before = await hand.names("SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'single'::regclass "
                                  "AND attname = 'generation'")
        after = "integer" if before == ["bigint"] else "bigint"
        await hand.do(hand.touched("single"), f"ALTER TABLE single ALTER generation TYPE {after}")

    async def _create(self, hand: Hand, table: str) -> None:
        await hand.do(f"CREATE TABLE {table} ({COLUMNS})", f"INSERT INTO {table} {hand.rows(MANY)}")
        await hand.do(f"CREATE INDEX ON {table} (id)", f"ANALYZE {table}")
        await hand.do(f"""DO $$ BEGIN EXECUTE (
            SELECT format('ALTER TABLE {table} CLUSTER ON %I', relname) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
            WHERE indrelid = '{table}'::regclass); END $$""")


class Partitioned(Subject):
    """Four parts by a list; the fourth is partitioned again. A part is a table `parted_PART_GENERATION`."""

    name = "parted"
    asked = asked_of("parted")
    parts = (1, 2, 3, 4)
    last = 4
    coming = ""  # a table that is to be attached

    async def make(self, hand: Hand) -> None:
        await hand.do(f"CREATE TABLE parted ({COLUMNS}, part integer NOT NULL) PARTITION BY LIST (part)")
        for part in self.parts:
            await self._attach(hand, part, await self._build(hand, part))

    async def prepare(self, hand: Hand) -> None:
        names = await self.attached(hand)
        absent = [part for part in self.parts if part not in map(_part_of, names)]
        if self.coming not in names and self.coming:
            await hand.do(f"DROP TABLE IF EXISTS {self.coming}")
        self.coming = await self._build(hand, hand.chance.choice(absent or self.parts))

    @property
    def changes(self) -> Sequence[Change]:
        return (
            *(self.reload, self.exchange, self.exchange, self.delete_and_attach, self.delete_and_attach),
            *(self.detach_and_update, self.detach_and_update, self.drop_one, self.exchange_below, self.reload_one),
        )

    @property
    def upkeep(self) -> Sequence[str]:
        return ("VACUUM parted", "ANALYZE parted", "REINDEX TABLE parted")

    def detachable(self, parts: Sequence[str]) -> str | None:
        return parts[0] if len(parts) > 2 else None

    async def attached(self, hand: Hand) -> list[str]:
        return await hand.names(
            "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'parted'::regclass ORDER BY inhrelid"
        )

    async def reload(self, hand: Hand) -> None:
        parts = [_part_of(name) for name in await self.attached(hand)]
        await hand.do("TRUNCATE parted")
        for part in sorted(parts):
            await hand.do(f"INSERT INTO parted {self._rows(hand, part)}")

    async def reload_one(self, hand: Hand) -> None:
        for name in (await self.attached(hand))[:1]:
            await hand.do(f"TRUNCATE {name}", f"INSERT INTO parted {self._rows(hand, _part_of(name))}")

    async def exchange(self, hand: Hand) -> None:
        part = _part_of(self.coming)
        for name in [name for name in await self.attached(hand) if _part_of(name) == part]:
            await hand.do(f"ALTER TABLE parted DETACH PARTITION {name}", f"DROP TABLE {name}")
        await self._attach(hand, part, self.coming)

    async def delete_and_attach(self, hand: Hand) -> None:
        """The rows of one part go, and another part comes: ATTACH lets readers of the parent go on."""
        names, part = await self.attached(hand), _part_of(self.coming)
        if part in map(_part_of, names):
            await self.drop_one(hand)
        else:
            await hand.do(*(f"DELETE FROM {name}" for name in names[:1]))
            await self._attach(hand, part, self.coming)

    async def detach_and_update(self, hand: Hand) -> None:
        names = await self.attached(hand)
        if len(names) > 2:
            await hand.do(hand.touched(names[1]), f"ALTER TABLE parted DETACH PARTITION {names[0]}")
            await hand.do(f"DROP TABLE {names[0]}")
        else:
            await self.exchange(hand)

    async def drop_one(self, hand: Hand) -> None:
        names = await self.attached(hand)
        if len(names) > 2:
            await hand.do(hand.touched(names[1]), f"DROP TABLE {names[0]}")
        else:
            await self.exchange(hand)

    async def exchange_below(self, hand: Hand) -> None:
        """Within the part that is partitioned itself, with an update of another part."""
        names = await self.attached(hand)
        whole = [name for name in names if _part_of(name) == self.last]
        for name in whole:
            low = (await hand.names(f"SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = '{name}'::regclass "
                                    f"AND inhrelid::regclass::text LIKE '%low%'"))[0]
            coming = f"{name}_low_{hand.generation}"
            await hand.do(f"CREATE TABLE {coming} (LIKE parted)", f"INSERT INTO {coming} {self._rows(hand, 4, half=True)}")
            await hand.do(f"ALTER TABLE {name} DETACH PARTITION {low}", f"DROP TABLE {low}")
            await hand.do(f"ALTER TABLE {name} ATTACH PARTITION {coming} FOR VALUES FROM (MINVALUE) TO (40300)")
        await hand.do(*(hand.touched(name) for name in names[:2] if name not in whole))

    async def _build(self, hand: Hand, part: int) -> str:
        name = f"parted_{part}_{hand.generation}"
        if part == self.last:
            await hand.do(f"CREATE TABLE {name} (LIKE parted) PARTITION BY RANGE (id)")
            await hand.do(f"CREATE TABLE {name}_low PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO (40300)")
            await hand.do(f"CREATE TABLE {name}_high PARTITION OF {name} FOR VALUES FROM (40300) TO (MAXVALUE)")
        else:
            await hand.do(f"CREATE TABLE {name} (LIKE parted)")
        await hand.do(f"INSERT INTO {name} {self._rows(hand, part)}")
        return name

    async def _attach(self, hand: Hand, part: int, name: str) -> None:
        await hand.do(f"ALTER TABLE parted ATTACH PARTITION {name} FOR VALUES IN ({part})")

    def _rows(self, hand: Hand, part: int, *, half: bool = False) -> str:
        return hand.rows(SOME // 2 if half else SOME, str(part), first=part * 10_000)


def _part_of(name: str) -> int:
    return int(name.split("_")[1])


class Inherited(Subject):
    """A parent with rows of its own, and tables that inherit from it."""

    name = "parent"
    asked = asked_of("parent")

    async def make(self, hand: Hand) -> None:
        await hand.do(f"CREATE TABLE parent ({COLUMNS})", f"INSERT INTO parent {hand.rows(FEW)}")
        for _ in range(3):
            hand.generation += 1
            await self.prepare(hand)
            await self._adopt(hand)

    async def prepare(self, hand: Hand) -> None:
        name = f"child_{hand.generation}"
        await hand.do(f"CREATE TABLE {name} (LIKE parent)")
        await hand.do(f"INSERT INTO {name} {hand.rows(FEW * 2, first=hand.generation * 1_000)}")

    @property
    def changes(self) -> Sequence[Change]:
        return self.reload, self.disown, self.delete_and_inherit, self.exchange, self.bring_back

    async def children(self, hand: Hand) -> list[str]:
        return await hand.names(
            "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'parent'::regclass ORDER BY inhrelid"
        )

    async def reload(self, hand: Hand) -> None:
        await hand.do("TRUNCATE parent")
        for number, name in enumerate(["parent", *await self.children(hand)]):
            await hand.do(f"INSERT INTO {name} {hand.rows(FEW, first=number * 1_000)}")

    async def disown(self, hand: Hand) -> None:
        names = await self.children(hand)
        if len(names) > 1:
            await hand.do(hand.touched(names[1]), f"ALTER TABLE {names[0]} NO INHERIT parent")
        else:
            await self.delete_and_inherit(hand)

    async def delete_and_inherit(self, hand: Hand) -> None:
        names = await self.children(hand)
        await hand.do(*(f"DELETE FROM ONLY {name}" for name in names[:1]))
        await self._adopt(hand)
        if len(names) > 4:
            await hand.do(f"DROP TABLE {names[0]}")

    async def exchange(self, hand: Hand) -> None:
        names = await self.children(hand)
        await hand.do(*(f"ALTER TABLE {name} NO INHERIT parent" for name in names[:1]))
        await self._adopt(hand)

    async def bring_back(self, hand: Hand) -> None:
        """One that was disowned inherits again, and what is left of them goes."""
        apart = await hand.names("SELECT relname FROM pg_class WHERE relname LIKE 'child%' AND relkind = 'r' AND NOT "
                                 "EXISTS (SELECT FROM pg_inherits WHERE inhrelid = pg_class.oid) ORDER BY oid")
        await hand.do(hand.touched("ONLY parent"), *(f"DROP TABLE {name}" for name in apart[1:]))
        await hand.do(*(f"ALTER TABLE {name} INHERIT parent" for name in apart[:1]))

    async def _adopt(self, hand: Hand) -> None:
        await hand.do(f"ALTER TABLE child_{hand.generation} INHERIT parent")


class View(Subject):
    """A view over two tables."""

    name = "joined"
    asked = asked_of("joined")

    async def make(self, hand: Hand) -> None:
        await hand.do(f"CREATE TABLE left_side ({COLUMNS})", f"CREATE TABLE right_side ({COLUMNS})")
        await self._define(hand)
        await self.reload(hand)

    @property
    def changes(self) -> Sequence[Change]:
        return self.reload, self.reload, self.reload_one, self.redefine, self.recreate, self.table_then_view, self.rewrite

    @property
    def upkeep(self) -> Sequence[str]:
        return ("VACUUM FULL left_side", "VACUUM FULL right_side", "ANALYZE left_side")

    async def reload(self, hand: Hand) -> None:
        await hand.do("TRUNCATE left_side, right_side", f"INSERT INTO left_side {hand.rows(SOME)}")
        await hand.do(f"INSERT INTO right_side {hand.rows(SOME, first=2_000)}")

    async def reload_one(self, hand: Hand) -> None:
        await hand.do("TRUNCATE right_side", f"INSERT INTO right_side {hand.rows(SOME, first=2_000)}")

    async def redefine(self, hand: Hand) -> None:
        """The view shows other rows, and the tables have others."""
        await hand.do(f"DELETE FROM left_side WHERE id > {SOME // 2}", hand.touched("right_side"))
        await self._define(hand, least=hand.chance.choice((0, 200)))
        await hand.do(f"INSERT INTO left_side {hand.rows(SOME, first=4_000)}")
        await hand.do("DELETE FROM left_side WHERE id < 4000 AND generation < " + str(hand.generation - 3))

    async def recreate(self, hand: Hand) -> None:
        await hand.do("DROP VIEW joined", hand.touched("left_side"))
        await self._define(hand)

    async def table_then_view(self, hand: Hand) -> None:
        """An export takes its locks in the other order: the view, then its tables."""
        await hand.do("LOCK TABLE left_side IN ACCESS EXCLUSIVE MODE", hand.touched("left_side"))
        await asyncio.sleep(hand.chance.choice(PAUSES))
        await hand.do("DROP VIEW joined")
        await self._define(hand)

    async def rewrite(self, hand: Hand) -> None:
        await hand.do(hand.touched("left_side"), "ALTER TABLE left_side ADD COLUMN spare float DEFAULT random()")
        await hand.do("ALTER TABLE left_side DROP COLUMN spare")

    async def _define(self, hand: Hand, least: int = 0) -> None:
        await hand.do(f"""CREATE OR REPLACE VIEW joined AS
            SELECT id, generation, filler FROM left_side WHERE id >= {least}
            UNION ALL SELECT id, generation, filler FROM right_side""")


class Stored(Subject):
    """A materialized view, and a view over it."""

    name = "stored"
    asked = (*asked_of("stored"), *asked_of("over_stored"))

    async def make(self, hand: Hand) -> None:
        await hand.do(f"CREATE TABLE stored_from ({COLUMNS})", f"INSERT INTO stored_from {hand.rows(SOME)}")
        await self._define(hand, "stored")
        await hand.do("CREATE VIEW over_stored AS SELECT * FROM stored")

    @property
    def changes(self) -> Sequence[Change]:
        return self.refresh, self.refresh, self.refresh_concurrently, self.recreate, self.take_the_name

    @property
    def upkeep(self) -> Sequence[str]:
        return ("VACUUM FULL stored", "REINDEX TABLE stored", "ANALYZE stored")

    async def refresh(self, hand: Hand) -> None:
        await self._reload(hand)
        await hand.do("REFRESH MATERIALIZED VIEW stored")

    async def refresh_concurrently(self, hand: Hand) -> None:
        await hand.do(hand.touched("stored_from"), "REFRESH MATERIALIZED VIEW CONCURRENTLY stored")

    async def recreate(self, hand: Hand) -> None:
        await self._reload(hand)
        await hand.do("DROP VIEW over_stored", "DROP MATERIALIZED VIEW stored")
        await self._define(hand, "stored")
        await hand.do("CREATE VIEW over_stored AS SELECT * FROM stored")

    async def take_the_name(self, hand: Hand) -> None:
        await self._reload(hand)
        await self._define(hand, "coming_stored")
        await hand.do("ALTER MATERIALIZED VIEW stored RENAME TO gone_stored")
        await hand.do("ALTER MATERIALIZED VIEW coming_stored RENAME TO stored")
        await hand.do("CREATE OR REPLACE VIEW over_stored AS SELECT * FROM stored")
        await hand.do("DROP MATERIALIZED VIEW gone_stored")

    async def _reload(self, hand: Hand) -> None:
        await hand.do("TRUNCATE stored_from", f"INSERT INTO stored_from {hand.rows(SOME)}")

    async def _define(self, hand: Hand, name: str) -> None:
        await hand.do(f"CREATE MATERIALIZED VIEW {name} AS SELECT * FROM stored_from")
        await hand.do(f"CREATE UNIQUE INDEX ON {name} (id)")


class Guarded(Subject):
    """A table whose policy reads another table, which no query names. The role may read its columns, and not lock it."""

    name = "guarded"
    asked = asked_of("guarded")

    async def make(self, hand: Hand) -> None:
        await hand.do(f"CREATE TABLE guarded ({COLUMNS}, tenant integer NOT NULL)")
        await hand.do(f"REVOKE ALL ON guarded FROM {hand.role}", f"GRANT SELECT ({NAMES}, tenant) ON guarded TO {hand.role}")
        await hand.do("CREATE TABLE allowed (tenant integer)")
        await self._reload(hand)
        await self._allow(hand)
        await hand.do("CREATE POLICY tenants ON guarded USING (tenant IN (SELECT tenant FROM allowed))")
        await hand.do("ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")

    @property
    def changes(self) -> Sequence[Change]:
        return self.reload, self.allow_others, self.allow_others, self.rewrite_allowed, self.change_policy, self.disable

    async def reload(self, hand: Hand) -> None:
        await self._reload(hand)
        await self._allow(hand)

    async def allow_others(self, hand: Hand) -> None:
        """The table that is exported is only updated, the one that its policy reads is made anew."""
        await hand.do(hand.touched("guarded"))
        await self._allow(hand)

    async def rewrite_allowed(self, hand: Hand) -> None:
        await hand.do(f"UPDATE guarded SET tenant = (tenant + 1) % 5, generation = {hand.generation}")
        await hand.do("ALTER TABLE allowed ADD COLUMN spare float DEFAULT random()")
        await hand.do("UPDATE allowed SET tenant = (tenant + 1) % 5", "ALTER TABLE allowed DROP COLUMN spare")

    async def change_policy(self, hand: Hand) -> None:
        """What was forbidden goes before it is allowed."""
        least = hand.chance.randrange(3)
        await hand.do(f"UPDATE guarded SET tenant = 4, generation = {hand.generation} WHERE tenant <> 4")
        await hand.do("DROP POLICY tenants ON guarded")
        await hand.do(f"""CREATE POLICY tenants ON guarded
            USING (tenant >= {least} AND tenant IN (SELECT tenant FROM allowed))""")
        await hand.do(f"UPDATE guarded SET tenant = id % 5, generation = {hand.generation} WHERE id % 2 = 0")

    async def disable(self, hand: Hand) -> None:
        """Row security goes together with the rows that it kept."""
        [on] = await hand.names("SELECT relrowsecurity FROM pg_class WHERE oid = 'guarded'::regclass")
        await hand.do("DELETE FROM guarded WHERE tenant NOT IN (SELECT tenant FROM allowed)", hand.touched("guarded"))
        if on == "True":
            await hand.do("ALTER TABLE guarded DISABLE ROW LEVEL SECURITY")
        else:
            await hand.do("ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")
            await self._reload(hand)

    async def _reload(self, hand: Hand) -> None:
        await hand.do("TRUNCATE guarded", f"INSERT INTO guarded {hand.rows(SOME, 'n % 5')}")

    async def _allow(self, hand: Hand) -> None:
        tenants = ", ".join(f"({tenant})" for tenant in hand.chance.sample(range(5), 2))
        await hand.do("TRUNCATE allowed", f"INSERT INTO allowed VALUES {tenants}")


class Granted(Subject):
    """A table of which the role may read some columns, so that it may not lock it, and a view over it of which, too."""

    name = "granted"
    asked = [asked for dataset in ("granted", "seen") for asked in asked_of(dataset) if asked.as_role]

    async def make(self, hand: Hand) -> None:
        await self._create(hand, "granted")
        await self._define(hand)

    @property
    def changes(self) -> Sequence[Change]:
        return self.reload, self.recreate, self.take_the_name, self.update, self.redefine, self.redefine

    async def reload(self, hand: Hand) -> None:
        await hand.do("TRUNCATE granted", f"INSERT INTO granted {self._rows(hand)}")

    async def update(self, hand: Hand) -> None:
        await hand.do(hand.touched("granted"))

    async def recreate(self, hand: Hand) -> None:
        await hand.do("DROP VIEW seen", "DROP TABLE granted")
        await self._create(hand, "granted")
        await self._define(hand)

    async def take_the_name(self, hand: Hand) -> None:
        await self._create(hand, "coming_granted")
        await hand.do("DROP TABLE granted CASCADE", "ALTER TABLE coming_granted RENAME TO granted")
        await self._define(hand)

    async def redefine(self, hand: Hand) -> None:
        """The rows that the view has shown go, and it shows others."""
        least = hand.chance.choice((0, 100, 200))
        await self._define(hand, least)
        await hand.do(f"DELETE FROM granted WHERE id < {least}", hand.touched("granted"))
        if not least:
            await self.reload(hand)

    async def _define(self, hand: Hand, least: int = 0) -> None:
        await hand.do(f"CREATE OR REPLACE VIEW seen AS SELECT {NAMES}, secret FROM granted WHERE id >= {least}")
        await hand.do(f"REVOKE ALL ON seen FROM {hand.role}", f"GRANT SELECT ({NAMES}) ON seen TO {hand.role}")

    async def _create(self, hand: Hand, name: str) -> None:
        await hand.do(f"CREATE TABLE {name} ({COLUMNS}, secret text)", f"REVOKE ALL ON {name} FROM {hand.role}")
        await hand.do(f"GRANT SELECT ({NAMES}) ON {name} TO {hand.role}")
        await hand.do(f"INSERT INTO {name} {self._rows(hand)}")

    def _rows(self, hand: Hand) -> str:
        return hand.rows(SOME, f"'{CANARY}' || n")


class Shaped(Subject):
    """A table whose columns come, go, and change their names and types, beside one that is hidden.

    Functions of the table stand by: one that is called like a column that is gone would be called in its place.
    """

    name = "shaped"
    asked = [Asked("shaped", question, as_role) for question in (WHOLE, EXCEL, NARROW) for as_role in (False, True)]

    async def make(self, hand: Hand) -> None:
        await hand.do(
            f"""CREATE TABLE shaped ({COLUMNS}, shaped integer, note integer, moment timestamptz, code varchar(2),
                secret text)"""
        )
        for name in ("cost", "extra"):
            await hand.do(f"CREATE FUNCTION {name}(shaped) RETURNS text LANGUAGE sql AS 'SELECT $1.secret'")
        await self._fill(hand)

    @property
    def changes(self) -> Sequence[Change]:
        return (
            *(self.add_or_drop_price, self.add_or_drop_price, self.rename_note, self.note_type, self.note_type),
            *(self.moment_type, self.code_length, self.add_or_drop_extra, self.reload),
        )

    async def reload(self, hand: Hand) -> None:
        await hand.do("TRUNCATE shaped")
        await self._fill(hand)

    async def add_or_drop_price(self, hand: Hand) -> None:
        """The column that has the name of its table."""
        if await self._type(hand, "shaped"):
            await hand.do("ALTER TABLE shaped DROP COLUMN shaped", hand.touched("shaped"))
        else:
            await hand.do("ALTER TABLE shaped ADD COLUMN shaped integer", hand.touched("shaped"))

    async def rename_note(self, hand: Hand) -> None:
        now, then = ("note", "remark") if await self._type(hand, "note") else ("remark", "note")
        await hand.do(f"ALTER TABLE shaped RENAME COLUMN {now} TO {then}", hand.touched("shaped"))

    async def note_type(self, hand: Hand) -> None:
        """Numbers become texts, of which some begin as formulas do."""
        name = "note" if await self._type(hand, "note") else "remark"
        if await self._type(hand, name) == "integer":
            await hand.do(f"ALTER TABLE shaped ALTER {name} TYPE text")
            await hand.do(f"UPDATE shaped SET {name} = '=' || id, generation = {hand.generation} WHERE id % 3 = 0")
        else:
            await hand.do(f"UPDATE shaped SET {name} = -id, generation = {hand.generation}")
            await hand.do(f"ALTER TABLE shaped ALTER {name} TYPE integer USING {name}::integer")

    async def moment_type(self, hand: Hand) -> None:
        after = "text" if await self._type(hand, "moment") == "timestamp with time zone" else "timestamptz"
        await hand.do(f"ALTER TABLE shaped ALTER moment TYPE {after} USING moment::{after}", hand.touched("shaped"))

    async def code_length(self, hand: Hand) -> None:
        await hand.do("ALTER TABLE shaped ALTER code TYPE varchar(3)")
        await hand.do(f"UPDATE shaped SET code = {hand.generation % 1000}, generation = {hand.generation}")
        if hand.chance.random() < 0.5:
            await hand.do("ALTER TABLE shaped ALTER code TYPE varchar(2) USING left(code, 2)")

    async def add_or_drop_extra(self, hand: Hand) -> None:
        if await self._type(hand, "extra"):
            await hand.do("ALTER TABLE shaped DROP COLUMN extra", hand.touched("shaped"))
        else:
            await hand.do(f"ALTER TABLE shaped ADD COLUMN extra text DEFAULT '+{hand.generation}'")
            await hand.do(hand.touched("shaped"))

    async def _type(self, hand: Hand, column: str) -> str | None:
        found = await hand.names(f"SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'shaped'::regclass "
                                 f"AND attname = '{column}' AND NOT attisdropped")
        return found[0] if found else None

    async def _fill(self, hand: Hand) -> None:
        await hand.do(f"""INSERT INTO shaped (id, generation, filler, secret, moment, code)
            {hand.rows(FEW, f"'{CANARY}' || n", "'2024-01-01 00:00:00+00'::timestamptz", "'ab'")}""")


SUBJECTS = (PlainTable, Partitioned, Inherited, View, Stored, Guarded, Granted, Shaped)
