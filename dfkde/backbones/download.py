"""Whether weights that have to be downloaded can be, told quickly."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial
from threading import Thread
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

# A resolver or a firewall that drops packets would otherwise keep a user waiting for minutes.
_PATIENCE = 1.3
_PORTS = {"http": 80, "https": 443}
INSTALLED = "use backbone=efficientnet_lite0, whose weights are installed with this package"
"""The way on that needs no file."""


class WeightsError(ValueError):
    """Weights are not on this machine and cannot be downloaded.

    Parameters
    ----------
    what : str
        Which weights.
    url : str
        Their address.
    place : str
        What to do with the file at that address.
    others : sequence of str
        Further ways on: other weights.
    """

    def __init__(self, what: str, *, url: str, place: str, others: Sequence[str] = (INSTALLED,)):
        ways_on = ", or ".join([place, *others])
        super().__init__(f"{what} are not on this machine and {url} cannot be fetched: {ways_on}")
        self.what, self.url, self.place, self.others = what, url, place, tuple(others)

    def __reduce__(self) -> tuple[partial[Self], tuple[str]]:
        """Pickle what it was made of, for an exception's own way knows positional values only."""
        make = partial(type(self), url=self.url, place=self.place, others=self.others)
        return make, (self.what,)

    def without_others(self) -> Self:
        """Return the error for whom no other weights will do."""
        return type(self)(self.what, url=self.url, place=self.place, others=())


def reachable(url: str) -> bool:
    """Tell within two seconds whether the server of a URL takes connections.

    Parameters
    ----------
    url : str
        Of http or https. Where the environment names a proxy for it, the proxy is asked: what
        it thinks of the URL is known by trying only.
    """
    answers: list[bool] = []
    # In a thread, for a time limit does not bound the look-up of the host's name.
    thread = Thread(target=lambda: answers.append(_connects(url)), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answers == [True]


def _connects(url: str) -> bool:
    try:
        socket.create_connection(_server(url), timeout=_PATIENCE).close()
    except (OSError, ValueError):
        return False
    return True


def _server(url: str) -> tuple[str, int]:
    """Return host and port to connect to for a URL: its own, or its proxy's."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.netloc):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)
