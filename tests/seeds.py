"""The oracle of the seeds: computes the table of seeds/02_users.sql without a database.

A test that compares an export with it needs no second export to trust. The lists and the arithmetic mirror
the SQL file, where their theory is written; change both or none.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import NamedTuple


class Row(NamedTuple):
    """One user as PostgreSQL COPY prints it in a session with UTC and ISO dates; None is NULL."""

    id: str
    name: str | None
    email: str | None
    signup_date: str | None
    country_code: str | None
    subscription_tier: str | None
    lifetime_value: str | None


COLUMNS: tuple[str, ...] = Row._fields

# As many values to a line as in the SQL file.
# fmt: off
FIRST_NAMES = (
    "Emma", "Noah", "Zoë", "Liam", "Søren", "Mia", "José", "Ava", "Lucas", "Chloé",
    "Ethan", "Yuki", "Oliver", "Jürgen", "Sofia", "Mateo", "Anaïs", "James", "Łukasz",
    "Grace", "Arjun", "Hannah", "Björn", "Priya", "Daniel", "Inês", "Omar", "Ella",
    "Дмитрий", "Ruby", "Hugo", "Leïla", "Samuel", "美咲", "Nora", "Ravi", "Alice",
)
LAST_NAMES = (
    "Smith", "Müller", "Tanaka", "Silva", "Martin", "Sharma", "Jones", "García",
    "Dubois", "Weber", "Brown", "Nguyễn", "Santos", "Patel", "Schmidt", "Taylor",
    "Lefèvre", "Sato", "Wilson", "Gonçalves", "Singh", "Fischer", "Moreau", "Davies",
    "Suzuki", "Costa", "Wójcik", "Evans", "Bernard", "Gupta", "Schröder", "Miller",
    "Oliveira", "Иванов", "Walker", "Petit", "Becker", "山田", "Kumar", "Roberts", "Åberg",
)
COUNTRIES = ("US", "DE", "FR", "GB", "IN", "JP", "BR")
TIERS = ("free",) * 12 + ("basic",) * 5 + ("premium",) * 2 + ("enterprise",)
DAYS = tuple(str(date(2019, 1, 1) + timedelta(days)) for days in range(2557))
TIMES = tuple(f"{at // 3600:02}:{at // 60 % 60:02}:{at % 60:02}" for at in range(86400))
FRACTIONS = ("",) * 8 + (".5", ".25", ".125", ".0625", ".03125", ".015625", ".000001", ".999999")

NASTY_NAMES = (
    None, "", "Smith, John", ",", 'Dwayne "The Rock" Johnson', '"quoted"', '"', '""',
    "line\nfeed", "carriage\rreturn", "both\r\nof them", "\n", "tab\tstop",
    " leading", "trailing ", " ", "O'Brien", "semi;colon", "pi|pe", "=1+1", "+1", "-1",
    "@SUM(A1)", r"\.", r"\N", r"\n", r"back\slash", "at the end\\", "NULL", None,
    "Ødegård", "北京", "محمد", "e\u0301", "\U0001f600",
    "\U0001f469\u200d\U0001f4bb", "\u00a0", "\ufeffmark", "two\u2028lines", "ñ" * 255,
)
NASTY_EMAIL_ENDS = (
    None, ",", '"', '""', "'", " ", "\t", "\n", "\r", "\r\n",
    ";", "|", "=", "+", "-", "@", "\\", r"\.", "ü", "\U0001f600",
)
NASTY_SIGNUP_DATES = (
    None, "infinity", "-infinity", "0044-03-15 12:00:00+00 BC",
    "10000-01-01 00:00:00+00", "2024-02-29 23:59:59.999999+00",
    "1970-01-01 00:00:00+00", "1969-12-31 23:59:59.9+00",
)
NASTY_COUNTRIES = (None, "X ", "  ", '" ', ',"', "é ", "\r\n", r"\.")  # char(2) is padded
NASTY_TIERS = (
    None, "", " ", "free,basic", '"premium"', "enter\nprise", r"\.", "básico", "-basic",
    "t" * 50,
)
NASTY_LIFETIME_VALUES = (
    None, "0.00", "0.01", "-0.01", "0.10", "-0.10", "0.99", "1.00", "-1.00", "1.01",
    "9.90", "9.99", "10.00", "-10.00", "10.01", "99.90", "99.99", "100.00", "-100.00", "100.01",
    "999.90", "999.99", "1000.00", "-1000.00", "1000.01", "9989.00", "9989.90", "9989.99", "-9990.00", "-9999.99",
    None, "-10000.00", "-99999.00", "-100000.00", "-999999.99", "-1000000.00", "-9999999.99", "-10000000.00",
    "-99999999.99", "99999999.99",
)
# fmt: on


def row(n: int) -> Row:
    return _nasty(n) if n % 100 == 7 else _ordinary(n)


def rows(last: int, first: int = 1) -> Iterator[Row]:
    return map(row, range(first, last + 1))


def csv_bytes(
    rows: Iterable[Row],
    columns: Sequence[str] = COLUMNS,
    delimiter: str = ",",
    quote: str = '"',
    header: bool = True,
) -> Iterator[bytes]:
    """Yields records one by one, so that a test can compare a long export without holding it in memory."""
    picked = [COLUMNS.index(column) for column in columns]
    field = _field_writer(delimiter, quote, alone=len(picked) == 1)
    if header:
        yield (delimiter.join(map(field, columns)) + "\n").encode()
    for each in rows:
        yield (delimiter.join([field(each[index]) for index in picked]) + "\n").encode()


def _ordinary(n: int) -> Row:
    x1 = _mix(n, 2654435769)
    x2 = _mix(x1, 2246822519)
    x3 = _mix(x2, 3266489917)
    x4 = _mix(x3, 2869860233)
    country, tier = divmod((x3 * 140) >> 31, 20)
    day, second = divmod((x4 * 220924800) >> 31, 86400)
    units, cents = divmod((x2 * 1000000) >> 31, 100)
    return Row(
        str(n),
        f"{FIRST_NAMES[n % 37]} {LAST_NAMES[n % 41]}",
        f"user{n}@example.com",
        f"{DAYS[day]} {TIMES[second]}{FRACTIONS[n % 16]}+00",
        COUNTRIES[country],
        TIERS[tier],
        f"{units}.{cents:02}",
    )


def _mix(x: int, factor: int) -> int:
    return ((x ^ (x >> 16)) * factor) & 0x7FFFFFFF


def _nasty(n: int) -> Row:
    k = n // 100
    end = NASTY_EMAIL_ENDS[k % 20]
    return Row(
        str(n),
        NASTY_NAMES[k % 40],
        None if end is None else f"{end}{n}{end}",
        NASTY_SIGNUP_DATES[k % 8],
        NASTY_COUNTRIES[k % 8],
        NASTY_TIERS[k % 10],
        NASTY_LIFETIME_VALUES[k % 40],
    )


def _field_writer(delimiter: str, quote: str, alone: bool) -> Callable[[str | None], str]:
    r"""Quotes as COPY does, not as csv: an empty text must differ from NULL, and a lone \. from the end of data."""
    special = re.compile(f"[{re.escape(delimiter + quote)}\r\n]")

    def write(text: str | None) -> str:
        if text is None:
            return ""
        if text == "" or special.search(text) or (alone and text == r"\."):
            return quote + text.replace(quote, quote + quote) + quote
        return text

    return write
