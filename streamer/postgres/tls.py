"""TLS to a database: the arguments for the driver, and which failures are permanent.

The driver reads the files of `sslrootcert`, `sslcert`, `sslkey` and `sslcrl` itself, at each connection, and its errors
do not name the file. So the files are read here once before. The driver does not know `sslrootcert=system`; it gets an
SSLContext for it.
"""

import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from streamer.errors import StartError
from streamer.postgres.conninfo import (
    OPTIONAL_TLS,
    ROOT_CERTIFICATE,
    SYSTEM,
    ConnectionParameters,
    file_exists,
    home_file,
)
from streamer.postgres.driver import is_tls_refusal

FILES = ("sslrootcert", "sslcrl", "sslkey", "sslcert")  # the key precedes the certificate, which is read with it
INTERRUPTED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def driver_arguments(parameters: ConnectionParameters) -> Mapping[str, Any]:
    """Returns arguments of `asyncpg.connect`, which accepts file names only in a URL.

    Raises StartError that names the file which cannot be read.
    """
    tls = parameters.tls
    if all(address.is_socket for address in parameters.addresses):  # a socket never has TLS
        return {"ssl": False, "direct_tls": False}
    _check(parameters)
    if tls.get("sslrootcert") == SYSTEM:
        return {"ssl": _system_context(tls), "direct_tls": tls.get("sslnegotiation") == "direct"}
    return {"dsn": f"postgresql://?{urlencode(tls, quote_via=quote)}"} if tls else {}


def is_permanent(error: BaseException) -> bool:
    """Whether a certificate is not accepted, or the server has no TLS."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, INTERRUPTED)
    return is_tls_refusal(error)


def explain(error: BaseException, parameters: ConnectionParameters) -> str:
    """Returns a sentence about a permanent error, with the parameters that decide."""
    mode = parameters.tls.get("sslmode", "prefer")
    if not isinstance(error, ssl.SSLError):
        if mode in OPTIONAL_TLS:
            return "what listens there does not speak the protocol of PostgreSQL; check the host and the port"
        return f"the server has no TLS, and sslmode={mode} asks for it; set ssl=on in PostgreSQL, or sslmode=prefer"
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: {error.reason or error} (sslmode={mode})"
    root = parameters.tls.get("sslrootcert", home_file(ROOT_CERTIFICATE))
    sentence = f"the certificate of the server is not accepted: {error.verify_message}"
    remedy = "set sslrootcert to the certificate of its authority, and use the host name that the certificate has"
    return f"{sentence} (sslmode={mode}, sslrootcert={root}); {remedy}"


def _check(parameters: ConnectionParameters) -> None:
    """Reads the files. Raises StartError that names the parameter and the file."""
    tls = parameters.tls
    if tls.get("sslmode") == "disable":
        return
    files = {name: tls[name] for name in FILES if name in tls and tls[name] != SYSTEM}
    if "sslrootcert" not in tls and tls.get("sslmode", "").startswith("verify-"):
        files["sslrootcert"] = str(home_file(ROOT_CERTIFICATE))
    for name, path in files.items():
        try:
            READERS.get(name, _open)(path, tls)
        except (OSError, ValueError) as error:  # SSLError is an OSError; a path with a NUL raises ValueError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            raise StartError(f"{parameters.setting}: {name}: {path}: {reason}") from error


def _open(path: str, tls: Mapping[str, str]) -> None:
    with open(path, "rb"):  # noqa: PTH123 - as the driver opens it
        pass


def _read_authorities(path: str, tls: Mapping[str, str]) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)


def _read_certificate(path: str, tls: Mapping[str, str]) -> None:
    _load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


READERS: Mapping[str, Callable[[str, Mapping[str, str]], None]] = {
    "sslrootcert": _read_authorities,
    "sslcrl": _read_authorities,
    "sslcert": _read_certificate,
}


def _system_context(tls: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the certificate and the host name
    context.load_default_certs()
    context.set_alpn_protocols(["postgresql"])  # PostgreSQL documentation, 54.2.11: required by direct TLS
    context.minimum_version = _version(tls.get("ssl_min_protocol_version", "TLSv1.2"))
    if "ssl_max_protocol_version" in tls:
        context.maximum_version = _version(tls["ssl_max_protocol_version"])
    if "sslcrl" in tls:
        context.load_verify_locations(cafile=tls["sslcrl"])
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if "sslcert" in tls:
        _load_certificate(context, tls)
    return context


def _load_certificate(context: ssl.SSLContext, tls: Mapping[str, str]) -> None:
    """Without `sslkey` the key is in the home folder, as for the driver, or in the file of the certificate."""
    default = home_file(".postgresql/postgresql.key")
    key = tls.get("sslkey") or (default if file_exists(default) else None)
    context.load_cert_chain(tls["sslcert"], key, password=lambda: tls.get("sslpassword", ""))


def _version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]
