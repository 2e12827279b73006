"""Passwords in a store's address: only MLflow's own environment variables hold them.

Addresses are passed on, written and shown without them. To connect, they are taken from
`MLFLOW_TRACKING_URI` again, if that is the same address; a server's user and password may also be
in `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, which MLflow reads itself.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

VARIABLE = "MLFLOW_TRACKING_URI"

_SCHEME = r"^([a-zA-Z][\w+.-]*://)"
# In a server's address the user may be a token; in a database's it is part of its name.
# A password that holds a slash, as it must not, is one all the same: what is no port is none.
_SERVER = re.compile(r"^(https?://)([^/?#]*|[^/?#:\[]*:(?!\d*(?:[/?#]|$)).*)@", re.IGNORECASE)
_DATABASE = re.compile(_SCHEME + r"([^:/?#@]*):(.*)@")
_QUERY = re.compile(
    r"([?&])([^=&#]*(?:password|passwd|pwd|secret|token|odbc_connect)[^=&#]*=)([^&#]*)", re.I
)
_IN_ARGUMENT = re.compile(r"[a-zA-Z][\w+.-]*://[^\s'\",(){}\[\]]*")
_ADDRESS = re.compile(r"\b([a-zA-Z][\w+.-]*://)[^\s/?#@:]*:[^\s/?#@]*@")
_MASK = "***"


def without_secrets(uri: str) -> str:
    """Return a store's address without passwords and tokens.

    >>> without_secrets("postgresql://me:pw@host/runs?connect_timeout=3")
    'postgresql://me@host/runs?connect_timeout=3'
    >>> without_secrets("https://token@host:5000")
    'https://host:5000'
    """
    if _SERVER.match(uri):
        uri = _SERVER.sub(r"\1", uri)
    elif not uri.lower().startswith(("http://", "https://")):
        uri = _DATABASE.sub(r"\1\2@", uri)
    return _QUERY.sub(r"\1\2", uri)


def check_address(uri: str) -> str:
    """Return a store's address without secrets, which only `MLFLOW_TRACKING_URI` may hold."""
    address = without_secrets(uri)
    if address != uri and uri != os.environ.get(VARIABLE):
        rule = f"must hold no password, got {address} with one"
        raise ValueError(f"tracking.uri {rule}; set {VARIABLE} to the whole of it")
    return address


def server_address(default: str) -> str:
    """Return the address in `MLFLOW_TRACKING_URI` without secrets; the default if it is not set."""
    return without_secrets(os.environ.get(VARIABLE, default))


def check_argument(argument: str) -> None:
    """Refuse any password in an argument, which others see and Hydra prints and writes."""
    key, _, value = argument.partition("=")
    for uri in [value.strip(" '\""), *_IN_ARGUMENT.findall(value)]:
        address = without_secrets(uri)
        if address != uri:
            rule = f"must hold no password, got {address} with one"
            where = f"set {VARIABLE} to the whole of it, for tracking=server"
            raise ValueError(f"{key.lstrip('+')} {rule}; {where}")


def with_secrets(uri: str) -> str:
    """Return the address to connect to, given one without secrets."""
    whole = os.environ.get(VARIABLE, "")
    return whole if without_secrets(whole) == uri else uri


def masked(text: str) -> str:
    """Return a message without the secrets of `MLFLOW_TRACKING_URI` and of any other address.

    >>> masked("no answer from http://me:pw@host:5000/api")
    'no answer from http://***@host:5000/api'
    """
    for secret in _secrets(os.environ.get(VARIABLE, "")):
        text = text.replace(secret, _MASK)
    return _ADDRESS.sub(rf"\1{_MASK}@", text) if "@" in text else text


def _secrets(uri: str) -> list[str]:
    """Return the texts that `without_secrets` takes out, as a message may hold them."""
    found = [match[3] for match in _QUERY.finditer(uri)]
    server, database = _SERVER.match(uri), _DATABASE.match(uri)
    if server:
        found += [server[2], *server[2].split(":")[1:]]
    elif database:
        found.append(database[3])
    every = {text for secret in found for text in (secret, unquote(secret))}
    # A single letter would blot out the message; it stands behind a colon where it is a password.
    return sorted((text for text in every if len(text) > 2), key=len, reverse=True)
