"""Whether weights that have to be downloaded can be, told quickly."""

from __future__ import annotations

from threading import Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

# A resolver or a firewall that drops packets would otherwise keep a user waiting for minutes.
_PATIENCE = 1.3


class WeightsError(ValueError):
    """Weights are not on this machine and cannot be downloaded."""

    def __init__(self, what: str, *, url: str, way_on: str):
        super().__init__(
            f"{what} are not on this machine and {url} cannot be fetched: {way_on},"
            " or use backbone=efficientnet_lite0, whose weights are installed with this package"
        )
        self.url = url


def reachable(url: str) -> bool:
    """Tell within two seconds whether a URL answers.

    Parameters
    ----------
    url : str
        Of http or https. Proxies of the environment are used.
    """
    answers: list[bool] = []
    # In a thread, for a time limit does not bound the look-up of the host's name.
    thread = Thread(target=lambda: answers.append(_answers(url)), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answers == [True]


def _answers(url: str) -> bool:
    try:
        with urlopen(Request(url, method="HEAD"), timeout=_PATIENCE):  # noqa: S310
            return True
    except HTTPError as error:
        return error.code < 400
    except OSError:
        return False
