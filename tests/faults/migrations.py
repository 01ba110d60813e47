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
class Session:
    """The connection of the changes of one subject."""

    plain: Plain
    chance: random.Random
    role: str
    generation: int = 0
    pausing: bool = False

    async def do(self, *statements: str) -> None:
        for statement in statements:
            await self.plain.execute(statement)
            await self.pause()

    async def pause(self) -> None:
        if self.pausing:
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


Change = Callable[[Session], Awaitable[None]]


class Subject:
    """`changes` are transactions, `upkeep` moves rows and changes none, and may refuse to be in a transaction."""

    name: str
    asked: Sequence[Asked]

    async def make(self, session: Session) -> None:
        raise NotImplementedError

    @property
    def changes(self) -> Sequence[Change]:
        raise NotImplementedError

    @property
    def upkeep(self) -> Sequence[str]:
        return ()

    async def prepare(self, session: Session) -> None:
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

    async def make(self, session: Session) -> None:
        await self._create(session, "single")
        await self._create(session, "twin")
        await session.do("CREATE SCHEMA aside")

    @property
    def changes(self) -> Sequence[Change]:
        return (
            *(self.reload, self.replace, self.update, self.empty, self.recreate, self.take_the_name),
            *(self.swap_names, self.move_away, self.rewrite),
        )

    @property
    def upkeep(self) -> Sequence[str]:
        return ("VACUUM FULL single", "VACUUM single", "ANALYZE single", "REINDEX TABLE single", "CLUSTER single")

    async def reload(self, session: Session) -> None:
        await session.do("TRUNCATE single", f"INSERT INTO single {session.rows(MANY)}")

    async def replace(self, session: Session) -> None:
        await session.do("DELETE FROM single", f"INSERT INTO single {session.rows(MANY)}")

    async def update(self, session: Session) -> None:
        await session.do(session.touched("single"))

    async def empty(self, session: Session) -> None:
        await session.do("TRUNCATE single")

    async def recreate(self, session: Session) -> None:
        await session.do("DROP TABLE single")
        await self._create(session, "single")

    async def take_the_name(self, session: Session) -> None:
        await self._create(session, "coming")
        await session.do("ALTER TABLE single RENAME TO gone", "ALTER TABLE coming RENAME TO single", "DROP TABLE gone")

    async def swap_names(self, session: Session) -> None:
        await session.do(
            "TRUNCATE twin", f"INSERT INTO twin {session.rows(MANY)}", "ALTER TABLE single RENAME TO between"
        )
        await session.do("ALTER TABLE twin RENAME TO single", "ALTER TABLE between RENAME TO twin")

    async def move_away(self, session: Session) -> None:
        await session.do("DROP TABLE IF EXISTS aside.single", "ALTER TABLE single SET SCHEMA aside")
        await self._create(session, "single")

    async def rewrite(self, session: Session) -> None:
        before = await session.names(
            "SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'single'::regclass AND attname = 'generation'"
        )
        after = "integer" if before == ["bigint"] else "bigint"
        await session.do(session.touched("single"), f"ALTER TABLE single ALTER generation TYPE {after}")

    async def _create(self, session: Session, table: str) -> None:
        await session.do(f"CREATE TABLE {table} ({COLUMNS})", f"INSERT INTO {table} {session.rows(MANY)}")
        await session.do(f"CREATE INDEX ON {table} (id)", f"ANALYZE {table}")
        await session.do(f"""DO $$ BEGIN EXECUTE (
            SELECT format('ALTER TABLE {table} CLUSTER ON %I', relname)
            FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = '{table}'::regclass); END $$""")


class Partitioned(Subject):
    """Four parts by a list; the fourth is partitioned again. A part is a table `parted_PART_GENERATION`."""

    name = "parted"
    asked = asked_of("parted")
    parts = (1, 2, 3, 4)
    last = 4
    coming = ""  # a table that is to be attached

    async def make(self, session: Session) -> None:
        await session.do(f"CREATE TABLE parted ({COLUMNS}, part integer NOT NULL) PARTITION BY LIST (part)")
        for part in self.parts:
            await self._attach(session, part, await self._build(session, part))

    async def prepare(self, session: Session) -> None:
        names = await self.attached(session)
        absent = [part for part in self.parts if part not in map(_part_of, names)]
        if self.coming not in names and self.coming:
            await session.do(f"DROP TABLE IF EXISTS {self.coming}")
        self.coming = await self._build(session, session.chance.choice(absent or self.parts))

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

    async def attached(self, session: Session) -> list[str]:
        return await session.names(
            "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'parted'::regclass ORDER BY inhrelid"
        )

    async def reload(self, session: Session) -> None:
        parts = [_part_of(name) for name in await self.attached(session)]
        await session.do("TRUNCATE parted")
        for part in sorted(parts):
            await session.do(f"INSERT INTO parted {self._rows(session, part)}")

    async def reload_one(self, session: Session) -> None:
        for name in (await self.attached(session))[:1]:
            await session.do(f"TRUNCATE {name}", f"INSERT INTO parted {self._rows(session, _part_of(name))}")

    async def exchange(self, session: Session) -> None:
        part = _part_of(self.coming)
        for name in [name for name in await self.attached(session) if _part_of(name) == part]:
            await session.do(f"ALTER TABLE parted DETACH PARTITION {name}", f"DROP TABLE {name}")
        await self._attach(session, part, self.coming)

    async def delete_and_attach(self, session: Session) -> None:
        """The rows of one part go, and another part comes: ATTACH lets readers of the parent go on."""
        names, part = await self.attached(session), _part_of(self.coming)
        if part in map(_part_of, names):
            await self.drop_one(session)
        else:
            await session.do(*(f"DELETE FROM {name}" for name in names[:1]))
            await self._attach(session, part, self.coming)

    async def detach_and_update(self, session: Session) -> None:
        names = await self.attached(session)
        if len(names) > 2:
            await session.do(session.touched(names[1]), f"ALTER TABLE parted DETACH PARTITION {names[0]}")
            await session.do(f"DROP TABLE {names[0]}")
        else:
            await self.exchange(session)

    async def drop_one(self, session: Session) -> None:
        names = await self.attached(session)
        if len(names) > 2:
            await session.do(session.touched(names[1]), f"DROP TABLE {names[0]}")
        else:
            await self.exchange(session)

    async def exchange_below(self, session: Session) -> None:
        """Within the part that is partitioned itself, with an update of another part."""
        names = await self.attached(session)
        whole = [name for name in names if _part_of(name) == self.last]
        for name in whole:
            low = (
                await session.names(
                    f"SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = '{name}'::regclass "
                    f"AND inhrelid::regclass::text LIKE '%low%'"
                )
            )[0]
            coming = f"{name}_low_{session.generation}"
            await session.do(
                f"CREATE TABLE {coming} (LIKE parted)", f"INSERT INTO {coming} {self._rows(session, 4, half=True)}"
            )
            await session.do(f"ALTER TABLE {name} DETACH PARTITION {low}", f"DROP TABLE {low}")
            await session.do(f"ALTER TABLE {name} ATTACH PARTITION {coming} FOR VALUES FROM (MINVALUE) TO (40300)")
        await session.do(*(session.touched(name) for name in names[:2] if name not in whole))

    async def _build(self, session: Session, part: int) -> str:
        name = f"parted_{part}_{session.generation}"
        if part == self.last:
            await session.do(f"CREATE TABLE {name} (LIKE parted) PARTITION BY RANGE (id)")
            await session.do(f"CREATE TABLE {name}_low PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO (40300)")
            await session.do(f"CREATE TABLE {name}_high PARTITION OF {name} FOR VALUES FROM (40300) TO (MAXVALUE)")
        else:
            await session.do(f"CREATE TABLE {name} (LIKE parted)")
        await session.do(f"INSERT INTO {name} {self._rows(session, part)}")
        return name

    async def _attach(self, session: Session, part: int, name: str) -> None:
        await session.do(f"ALTER TABLE parted ATTACH PARTITION {name} FOR VALUES IN ({part})")

    def _rows(self, session: Session, part: int, *, half: bool = False) -> str:
        return session.rows(SOME // 2 if half else SOME, str(part), first=part * 10_000)


def _part_of(name: str) -> int:
    return int(name.split("_")[1])


class Inherited(Subject):
    """A parent with rows of its own, and tables that inherit from it."""

    name = "parent"
    asked = asked_of("parent")

    async def make(self, session: Session) -> None:
        await session.do(f"CREATE TABLE parent ({COLUMNS})", f"INSERT INTO parent {session.rows(FEW)}")
        for _ in range(3):
            session.generation += 1
            await self.prepare(session)
            await self._adopt(session)

    async def prepare(self, session: Session) -> None:
        name = f"child_{session.generation}"
        await session.do(f"CREATE TABLE {name} (LIKE parent)")
        await session.do(f"INSERT INTO {name} {session.rows(FEW * 2, first=session.generation * 1_000)}")

    @property
    def changes(self) -> Sequence[Change]:
        return self.reload, self.disown, self.delete_and_inherit, self.exchange, self.bring_back

    async def children(self, session: Session) -> list[str]:
        return await session.names(
            "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'parent'::regclass ORDER BY inhrelid"
        )

    async def reload(self, session: Session) -> None:
        await session.do("TRUNCATE parent")
        for number, name in enumerate(["parent", *await self.children(session)]):
            await session.do(f"INSERT INTO {name} {session.rows(FEW, first=number * 1_000)}")

    async def disown(self, session: Session) -> None:
        names = await self.children(session)
        if len(names) > 1:
            await session.do(session.touched(names[1]), f"ALTER TABLE {names[0]} NO INHERIT parent")
        else:
            await self.delete_and_inherit(session)

    async def delete_and_inherit(self, session: Session) -> None:
        names = await self.children(session)
        await session.do(*(f"DELETE FROM ONLY {name}" for name in names[:1]))
        await self._adopt(session)
        if len(names) > 4:
            await session.do(f"DROP TABLE {names[0]}")

    async def exchange(self, session: Session) -> None:
        names = await self.children(session)
        await session.do(*(f"ALTER TABLE {name} NO INHERIT parent" for name in names[:1]))
        await self._adopt(session)

    async def bring_back(self, session: Session) -> None:
        """One that was disowned inherits again, and what is left of them goes."""
        apart = await session.names(
            "SELECT relname FROM pg_class WHERE relname LIKE 'child%' AND relkind = 'r' AND NOT "
            "EXISTS (SELECT FROM pg_inherits WHERE inhrelid = pg_class.oid) ORDER BY oid"
        )
        await session.do(session.touched("ONLY parent"), *(f"DROP TABLE {name}" for name in apart[1:]))
        await session.do(*(f"ALTER TABLE {name} INHERIT parent" for name in apart[:1]))

    async def _adopt(self, session: Session) -> None:
        await session.do(f"ALTER TABLE child_{session.generation} INHERIT parent")


class View(Subject):
    """A view over two tables."""

    name = "joined"
    asked = asked_of("joined")

    async def make(self, session: Session) -> None:
        await session.do(f"CREATE TABLE left_side ({COLUMNS})", f"CREATE TABLE right_side ({COLUMNS})")
        await self._define(session)
        await self.reload(session)

    @property
    def changes(self) -> Sequence[Change]:
        return (
            self.reload,
            self.reload,
            self.reload_one,
            self.redefine,
            self.recreate,
            self.table_then_view,
            self.rewrite,
        )

    @property
    def upkeep(self) -> Sequence[str]:
        return ("VACUUM FULL left_side", "VACUUM FULL right_side", "ANALYZE left_side")

    async def reload(self, session: Session) -> None:
        await session.do("TRUNCATE left_side, right_side", f"INSERT INTO left_side {session.rows(SOME)}")
        await session.do(f"INSERT INTO right_side {session.rows(SOME, first=2_000)}")

    async def reload_one(self, session: Session) -> None:
        await session.do("TRUNCATE right_side", f"INSERT INTO right_side {session.rows(SOME, first=2_000)}")

    async def redefine(self, session: Session) -> None:
        """The view shows other rows, and the tables have others."""
        await session.do(f"DELETE FROM left_side WHERE id > {SOME // 2}", session.touched("right_side"))
        await self._define(session, least=session.chance.choice((0, 200)))
        await session.do(f"INSERT INTO left_side {session.rows(SOME, first=4_000)}")
        await session.do("DELETE FROM left_side WHERE id < 4000 AND generation < " + str(session.generation - 3))

    async def recreate(self, session: Session) -> None:
        await session.do("DROP VIEW joined", session.touched("left_side"))
        await self._define(session)

    async def table_then_view(self, session: Session) -> None:
        """An export takes its locks in the other order: the view, then its tables."""
        await session.do("LOCK TABLE left_side IN ACCESS EXCLUSIVE MODE", session.touched("left_side"))
        await asyncio.sleep(session.chance.choice(PAUSES))
        await session.do("DROP VIEW joined")
        await self._define(session)

    async def rewrite(self, session: Session) -> None:
        await session.do(session.touched("left_side"), "ALTER TABLE left_side ADD COLUMN spare float DEFAULT random()")
        await session.do("ALTER TABLE left_side DROP COLUMN spare")

    async def _define(self, session: Session, least: int = 0) -> None:
        await session.do(f"""CREATE OR REPLACE VIEW joined AS
            SELECT id, generation, filler FROM left_side WHERE id >= {least}
            UNION ALL SELECT id, generation, filler FROM right_side""")


class Stored(Subject):
    """A materialized view, and a view over it."""

    name = "stored"
    asked = (*asked_of("stored"), *asked_of("over_stored"))

    async def make(self, session: Session) -> None:
        await session.do(f"CREATE TABLE stored_from ({COLUMNS})", f"INSERT INTO stored_from {session.rows(SOME)}")
        await self._define(session, "stored")
        await session.do("CREATE VIEW over_stored AS SELECT * FROM stored")

    @property
    def changes(self) -> Sequence[Change]:
        return self.refresh, self.refresh, self.refresh_concurrently, self.recreate, self.take_the_name

    @property
    def upkeep(self) -> Sequence[str]:
        return ("VACUUM FULL stored", "REINDEX TABLE stored", "ANALYZE stored")

    async def refresh(self, session: Session) -> None:
        await self._reload(session)
        await session.do("REFRESH MATERIALIZED VIEW stored")

    async def refresh_concurrently(self, session: Session) -> None:
        await session.do(session.touched("stored_from"), "REFRESH MATERIALIZED VIEW CONCURRENTLY stored")

    async def recreate(self, session: Session) -> None:
        await self._reload(session)
        await session.do("DROP VIEW over_stored", "DROP MATERIALIZED VIEW stored")
        await self._define(session, "stored")
        await session.do("CREATE VIEW over_stored AS SELECT * FROM stored")

    async def take_the_name(self, session: Session) -> None:
        await self._reload(session)
        await self._define(session, "coming_stored")
        await session.do("ALTER MATERIALIZED VIEW stored RENAME TO gone_stored")
        await session.do("ALTER MATERIALIZED VIEW coming_stored RENAME TO stored")
        await session.do("CREATE OR REPLACE VIEW over_stored AS SELECT * FROM stored")
        await session.do("DROP MATERIALIZED VIEW gone_stored")

    async def _reload(self, session: Session) -> None:
        await session.do("TRUNCATE stored_from", f"INSERT INTO stored_from {session.rows(SOME)}")

    async def _define(self, session: Session, name: str) -> None:
        await session.do(f"CREATE MATERIALIZED VIEW {name} AS SELECT * FROM stored_from")
        await session.do(f"CREATE UNIQUE INDEX ON {name} (id)")


class Guarded(Subject):
    """A table with a policy that reads another table. The role may read all columns, and not lock it."""

    name = "guarded"
    asked = asked_of("guarded")

    async def make(self, session: Session) -> None:
        await session.do(f"CREATE TABLE guarded ({COLUMNS}, tenant integer NOT NULL)")
        await session.do(
            f"REVOKE ALL ON guarded FROM {session.role}", f"GRANT SELECT ({NAMES}, tenant) ON guarded TO {session.role}"
        )
        await session.do("CREATE TABLE allowed (tenant integer)")
        await self._reload(session)
        await self._allow(session)
        await session.do("CREATE POLICY tenants ON guarded USING (tenant IN (SELECT tenant FROM allowed))")
        await session.do("ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")

    @property
    def changes(self) -> Sequence[Change]:
        return self.reload, self.allow_others, self.allow_others, self.rewrite_allowed, self.change_policy, self.disable

    async def reload(self, session: Session) -> None:
        await self._reload(session)
        await self._allow(session)

    async def allow_others(self, session: Session) -> None:
        """The table that is exported is only updated, the one that its policy reads is made anew."""
        await session.do(session.touched("guarded"))
        await self._allow(session)

    async def rewrite_allowed(self, session: Session) -> None:
        await session.do(f"UPDATE guarded SET tenant = (tenant + 1) % 5, generation = {session.generation}")
        await session.do("ALTER TABLE allowed ADD COLUMN spare float DEFAULT random()")
        await session.do("UPDATE allowed SET tenant = (tenant + 1) % 5", "ALTER TABLE allowed DROP COLUMN spare")

    async def change_policy(self, session: Session) -> None:
        """What was forbidden goes before it is allowed."""
        least = session.chance.randrange(3)
        await session.do(f"UPDATE guarded SET tenant = 4, generation = {session.generation} WHERE tenant <> 4")
        await session.do("DROP POLICY tenants ON guarded")
        await session.do(f"""CREATE POLICY tenants ON guarded
            USING (tenant >= {least} AND tenant IN (SELECT tenant FROM allowed))""")
        await session.do(f"UPDATE guarded SET tenant = id % 5, generation = {session.generation} WHERE id % 2 = 0")

    async def disable(self, session: Session) -> None:
        """Row security goes together with the rows that it kept."""
        [on] = await session.names("SELECT relrowsecurity FROM pg_class WHERE oid = 'guarded'::regclass")
        await session.do(
            "DELETE FROM guarded WHERE tenant NOT IN (SELECT tenant FROM allowed)", session.touched("guarded")
        )
        if on == "True":
            await session.do("ALTER TABLE guarded DISABLE ROW LEVEL SECURITY")
        else:
            await session.do("ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")
            await self._reload(session)

    async def _reload(self, session: Session) -> None:
        await session.do("TRUNCATE guarded", f"INSERT INTO guarded {session.rows(SOME, 'n % 5')}")

    async def _allow(self, session: Session) -> None:
        tenants = ", ".join(f"({tenant})" for tenant in session.chance.sample(range(5), 2))
        await session.do("TRUNCATE allowed", f"INSERT INTO allowed VALUES {tenants}")


class Granted(Subject):
    """A table of which the role may read some columns, so that it may not lock it, and a view over it of which, too."""

    name = "granted"
    asked = tuple(asked for dataset in ("granted", "seen") for asked in asked_of(dataset) if asked.as_role)

    async def make(self, session: Session) -> None:
        await self._create(session, "granted")
        await self._define(session)

    @property
    def changes(self) -> Sequence[Change]:
        return self.reload, self.recreate, self.take_the_name, self.update, self.redefine, self.redefine

    async def reload(self, session: Session) -> None:
        await session.do("TRUNCATE granted", f"INSERT INTO granted {self._rows(session)}")

    async def update(self, session: Session) -> None:
        await session.do(session.touched("granted"))

    async def recreate(self, session: Session) -> None:
        await session.do("DROP VIEW seen", "DROP TABLE granted")
        await self._create(session, "granted")
        await self._define(session)

    async def take_the_name(self, session: Session) -> None:
        await self._create(session, "coming_granted")
        await session.do("DROP TABLE granted CASCADE", "ALTER TABLE coming_granted RENAME TO granted")
        await self._define(session)

    async def redefine(self, session: Session) -> None:
        """The rows that the view has shown go, and it shows others."""
        least = session.chance.choice((0, 100, 200))
        await self._define(session, least)
        await session.do(f"DELETE FROM granted WHERE id < {least}", session.touched("granted"))
        if not least:
            await self.reload(session)

    async def _define(self, session: Session, least: int = 0) -> None:
        await session.do(f"CREATE OR REPLACE VIEW seen AS SELECT {NAMES}, secret FROM granted WHERE id >= {least}")
        await session.do(f"REVOKE ALL ON seen FROM {session.role}", f"GRANT SELECT ({NAMES}) ON seen TO {session.role}")

    async def _create(self, session: Session, name: str) -> None:
        await session.do(f"CREATE TABLE {name} ({COLUMNS}, secret text)", f"REVOKE ALL ON {name} FROM {session.role}")
        await session.do(f"GRANT SELECT ({NAMES}) ON {name} TO {session.role}")
        await session.do(f"INSERT INTO {name} {self._rows(session)}")

    def _rows(self, session: Session) -> str:
        return session.rows(SOME, f"'{CANARY}' || n")


class Shaped(Subject):
    """A table whose columns come, go, and change their names and types, beside one that is hidden.

    Functions of the table stand by: one that is called like a column that is gone would be called in its place.
    """

    name = "shaped"
    asked = tuple(
        Asked("shaped", question, as_role) for question in (WHOLE, EXCEL, NARROW) for as_role in (False, True)
    )

    async def make(self, session: Session) -> None:
        await session.do(
            f"""CREATE TABLE shaped ({COLUMNS}, shaped integer, note integer, moment timestamptz, code varchar(2),
                secret text)"""
        )
        for name in ("cost", "extra"):
            await session.do(f"CREATE FUNCTION {name}(shaped) RETURNS text LANGUAGE sql AS 'SELECT $1.secret'")
        await self._fill(session)

    @property
    def changes(self) -> Sequence[Change]:
        return (
            *(self.add_or_drop_price, self.add_or_drop_price, self.rename_note, self.note_type, self.note_type),
            *(self.moment_type, self.code_length, self.add_or_drop_extra, self.reload),
        )

    async def reload(self, session: Session) -> None:
        await session.do("TRUNCATE shaped")
        await self._fill(session)

    async def add_or_drop_price(self, session: Session) -> None:
        """The column that has the name of its table."""
        if await self._type(session, "shaped"):
            await session.do("ALTER TABLE shaped DROP COLUMN shaped", session.touched("shaped"))
        else:
            await session.do("ALTER TABLE shaped ADD COLUMN shaped integer", session.touched("shaped"))

    async def rename_note(self, session: Session) -> None:
        now, then = ("note", "remark") if await self._type(session, "note") else ("remark", "note")
        await session.do(f"ALTER TABLE shaped RENAME COLUMN {now} TO {then}", session.touched("shaped"))

    async def note_type(self, session: Session) -> None:
        """Numbers become texts, of which some begin as formulas do."""
        name = "note" if await self._type(session, "note") else "remark"
        if await self._type(session, name) == "integer":
            await session.do(f"ALTER TABLE shaped ALTER {name} TYPE text")
            await session.do(
                f"UPDATE shaped SET {name} = '=' || id, generation = {session.generation} WHERE id % 3 = 0"
            )
        else:
            await session.do(f"UPDATE shaped SET {name} = -id, generation = {session.generation}")
            await session.do(f"ALTER TABLE shaped ALTER {name} TYPE integer USING {name}::integer")

    async def moment_type(self, session: Session) -> None:
        after = "text" if await self._type(session, "moment") == "timestamp with time zone" else "timestamptz"
        await session.do(
            f"ALTER TABLE shaped ALTER moment TYPE {after} USING moment::{after}", session.touched("shaped")
        )

    async def code_length(self, session: Session) -> None:
        await session.do("ALTER TABLE shaped ALTER code TYPE varchar(3)")
        await session.do(f"UPDATE shaped SET code = {session.generation % 1000}, generation = {session.generation}")
        if session.chance.random() < 0.5:
            await session.do("ALTER TABLE shaped ALTER code TYPE varchar(2) USING left(code, 2)")

    async def add_or_drop_extra(self, session: Session) -> None:
        if await self._type(session, "extra"):
            await session.do("ALTER TABLE shaped DROP COLUMN extra", session.touched("shaped"))
        else:
            await session.do(f"ALTER TABLE shaped ADD COLUMN extra text DEFAULT '+{session.generation}'")
            await session.do(session.touched("shaped"))

    async def _type(self, session: Session, column: str) -> str | None:
        found = await session.names(
            f"SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'shaped'::regclass "
            f"AND attname = '{column}' AND NOT attisdropped"
        )
        return found[0] if found else None

    async def _fill(self, session: Session) -> None:
        await session.do(f"""INSERT INTO shaped (id, generation, filler, secret, moment, code)
            {session.rows(FEW, f"'{CANARY}' || n", "'2024-01-01 00:00:00+00'::timestamptz", "'ab'")}""")


SUBJECTS = (PlainTable, Partitioned, Inherited, View, Stored, Guarded, Granted, Shaped)
