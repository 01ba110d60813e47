"""Why a database cannot be connected to, in one sentence with what to do about it.

No sentence contains a password. The hosts are named as the setting names them, since the system's own message does not
always name one.
"""

import errno
import re
import socket
from collections.abc import Callable, Sequence

import asyncpg

from streamer.postgres import tls
from streamer.postgres.conninfo import ConnectionParameters
from streamer.postgres.failures import one_line

ERRNO = re.compile(r"\[Errno (-?[0-9]+)\]")
CLOSED = (errno.ECONNRESET, errno.EPIPE)
NO_ENTRY = "no pg_hba.conf entry"


def explain(error: BaseException, parameters: ConnectionParameters) -> str:
    """Returns a sentence about an error of the driver while it connects."""
    if tls.is_permanent(error):
        return tls.explain(error, parameters)
    for kinds, sentence in SENTENCES:
        if isinstance(error, kinds):
            return sentence(error, parameters)
    return one_line(error)


def _places(parameters: ConnectionParameters) -> str:
    """Names all hosts, since it is not known here which of them was tried last."""
    each = [str(address) for address in parameters.addresses]
    return each[0] if len(each) == 1 else f"the last host of {' and '.join(each)}"


def _unknown_host(error: BaseException, parameters: ConnectionParameters) -> str:
    return f"no address is known for {_places(parameters)}; check the name of the host: {error.args[-1]}"


def _silent(error: BaseException, parameters: ConnectionParameters) -> str:
    return f"{_places(parameters)} did not answer in time; check the host and the port, and the firewalls in between"


def _closed(error: BaseException, parameters: ConnectionParameters) -> str:
    return f"{_places(parameters)} closed the connection; is it PostgreSQL that listens there?"


def _not_reached(error: BaseException, parameters: ConnectionParameters) -> str:
    """About an error of the system: asyncio may raise one error for several addresses of a host, without a number."""
    numbers = {int(number) for number in ERRNO.findall(str(error))} or {getattr(error, "errno", 0)}
    place = _places(parameters)
    if numbers == {errno.ECONNREFUSED}:
        return f"{place} refused the connection; is PostgreSQL running there?"
    if numbers == {errno.ENOENT}:
        return f"there is no socket {place}; is PostgreSQL running there?"
    if numbers == {errno.EACCES}:
        return f"{place} may not be used by this user; check the permissions of its folder"
    if numbers <= {*CLOSED}:
        return _closed(error, parameters)
    return f"{place} cannot be reached; check the host, the port and the network: {one_line(error)}"


def _no_role(error: BaseException, parameters: ConnectionParameters) -> str:
    """The server has no such role, the role may not log in, or pg_hba.conf does not allow the connection."""
    remedy = "allow it in that file" if NO_ENTRY in str(error) else f"check {_user(parameters)}"
    return f"{one_line(error)}; {remedy}"


def _wrong_password(error: BaseException, parameters: ConnectionParameters) -> str:
    if _is_parts(parameters):
        user, password = "DB_USER", "DB_PASSWORD"
    else:
        user, password = "the user", f"the password in {parameters.setting}"
    if parameters.password is None:
        return f"{one_line(error)}; the database asks for a password: set {password}"
    return f"{one_line(error)}; check {user} and {password}"


def _no_database(error: BaseException, parameters: ConnectionParameters) -> str:
    name = "DB_NAME" if _is_parts(parameters) else f"the name of the database in {parameters.setting}"
    return f"{one_line(error)}; create it, or check {name}"


def _no_right(error: BaseException, parameters: ConnectionParameters) -> str:
    return f"{one_line(error)}; check the rights of {_user(parameters)}"


def _full(error: BaseException, parameters: ConnectionParameters) -> str:
    return f"{one_line(error)}; close others, or raise the limit of PostgreSQL"


def _other_host(error: BaseException, parameters: ConnectionParameters) -> str:
    return f"{_places(parameters)} is not target_session_attrs={parameters.target_session_attrs}"


def _is_parts(parameters: ConnectionParameters) -> bool:
    return parameters.setting.startswith("DB_")


def _user(parameters: ConnectionParameters) -> str:
    return "DB_USER" if _is_parts(parameters) else f"the user in {parameters.setting}"


Sentence = Callable[[BaseException, ConnectionParameters], str]

SENTENCES: Sequence[tuple[type[BaseException], Sentence]] = (
    (asyncpg.InvalidPasswordError, _wrong_password),
    (asyncpg.InvalidAuthorizationSpecificationError, _no_role),
    (asyncpg.InvalidCatalogNameError, _no_database),
    (asyncpg.InsufficientPrivilegeError, _no_right),
    (asyncpg.TooManyConnectionsError, _full),
    (asyncpg.TargetServerAttributeNotMatched, _other_host),
    (asyncpg.ConnectionDoesNotExistError, _closed),
    (socket.gaierror, _unknown_host),
    (TimeoutError, _silent),
    (OSError, _not_reached),
)
"""The first that matches: some are subclasses of others that follow."""
