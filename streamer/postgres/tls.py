"""TLS to a database: what the driver is given for it, and which of its failures no time can heal.

The driver reads the files of `sslrootcert`, `sslcert`, `sslkey` and `sslcrl` itself, at each connection. They are read
here once before, because it does not say which of them is missing. It does not know `sslrootcert=system`, for which it
is given a context.
"""

import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from streamer.errors import StartError
from streamer.postgres.conninfo import ROOT_CERTIFICATE, SYSTEM, ConnectionParameters, in_home, is_there

FILES = ("sslrootcert", "sslcrl", "sslkey", "sslcert")  # the key first: a certificate is read together with it
BROKEN_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
REJECTED = "rejected SSL upgrade"  # how the driver says that a server has no TLS


def driver_arguments(parameters: ConnectionParameters) -> Mapping[str, Any]:
    """For `asyncpg.connect`, which takes the names of files only in a URL. Raises StartError that names a file."""
    tls = parameters.tls
    if all(address.is_socket for address in parameters.addresses):  # where there is no TLS, whatever is asked for
        return {"ssl": False, "direct_tls": False}
    _check(parameters)
    if tls.get("sslrootcert") == SYSTEM:
        return {"ssl": _trusting_the_system(tls), "direct_tls": tls.get("sslnegotiation") == "direct"}
    return {"dsn": f"postgresql://?{urlencode(tls, quote_via=quote)}"} if tls else {}


def no_time_heals(error: BaseException) -> bool:
    """A certificate that is not accepted, or a server without TLS."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, BROKEN_OFF)
    return type(error) is ConnectionError and REJECTED in str(error)


def explained(error: BaseException, parameters: ConnectionParameters) -> str:
    """What `no_time_heals`, in a sentence that names the files which decide."""
    mode = parameters.tls.get("sslmode", "prefer")
    if not isinstance(error, ssl.SSLError):
        return f"the server has no TLS, and sslmode={mode} asks for it"
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: {error.reason or error} (sslmode={mode})"
    root = parameters.tls.get("sslrootcert", in_home(ROOT_CERTIFICATE))
    sentence = f"the certificate of the server is not accepted: {error.verify_message}"
    return f"{sentence} (sslmode={mode}, sslrootcert={root})"


def _check(parameters: ConnectionParameters) -> None:
    """Raises StartError that names the parameter and the file."""
    tls = parameters.tls
    if tls.get("sslmode") == "disable":
        return
    files = {name: tls[name] for name in FILES if name in tls and tls[name] != SYSTEM}
    if "sslrootcert" not in tls and tls.get("sslmode", "").startswith("verify-"):
        files["sslrootcert"] = str(in_home(ROOT_CERTIFICATE))
    for name, path in files.items():
        try:
            READERS.get(name, _open)(path, tls)
        except (OSError, ValueError) as error:  # an SSLError is an OSError, a path with a NUL a ValueError
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


def _trusting_the_system(tls: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the certificate and the name of the host
    context.load_default_certs()
    context.set_alpn_protocols(["postgresql"])  # PostgreSQL documentation, 54.2.11: needed where TLS comes first
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
    """Without `sslkey` the key is that of the home folder, as for the driver, or in the file of the certificate."""
    default = in_home(".postgresql/postgresql.key")
    key = tls.get("sslkey") or (default if is_there(default) else None)
    context.load_cert_chain(tls["sslcert"], key, password=lambda: tls.get("sslpassword", ""))


def _version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]
