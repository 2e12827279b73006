"""The command line of the tracking store: see `python -m harness.tracking --help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from harness.config import TrackingConfig
from harness.show import say
from harness.tracking import StoreError, open_tracker, store_uri
from harness.tracking.store import connect_to_read, stores
from harness.tracking.view import link


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    return _push(options) if options.command == "push" else _ui(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.tracking",
        description="Send results that the tracking store could not take, or show the store.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    push = commands.add_parser("push", help="send what waits, each result to its store")
    push.add_argument("--uri", help="only what waits for this MLflow tracking URI")
    ui = commands.add_parser("ui", help="open MLflow's UI on this machine")
    ui.add_argument("--port", type=int, default=5000)
    ui.add_argument("--uri", help="the MLflow tracking URI (default: this folder's store)")
    return parser


def _push(options: argparse.Namespace) -> int:
    left = [_send(uri) for uri in ([options.uri] if options.uri else stores())]
    for waiting in filter(None, left):
        say(*waiting.split("\n"), error=True)
    if not any(left):
        say("nothing waits", error=True)
    return 1 if any(left) else 0


def _send(uri: str) -> str | None:
    """Send what waits for a store, if anything does, and say what still waits."""
    tracker = open_tracker(TrackingConfig(uri=uri))
    if tracker.waiting():
        try:
            tracker.recover()
        except StoreError as error:
            say(f"error: {error}", error=True)
    return tracker.waiting()


def _ui(options: argparse.Namespace) -> int:
    """Print the links, then become the server, which does not return."""
    uri, server = store_uri(options.uri), f"http://127.0.0.1:{options.port}"
    try:
        experiments = connect_to_read(uri).search_experiments()
    except StoreError as error:
        say(f"error: {error}", error=True)
        return 1
    for experiment in experiments:
        if experiment.name != "Default":
            say(f"{experiment.name}: {link(server, experiment.experiment_id)}")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    # Seven processes, a quarter of a GB each, that would wait for work of other kinds.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    sys.stdout.flush()
    return os.execv(command[0], [*command, "--host", "127.0.0.1", "--port", str(options.port)])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
