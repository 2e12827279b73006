"""The command line of the tracking store: see `python -m harness.tracking --help`."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
from collections.abc import Sequence

from harness.config import FeaturesConfig, TrackingConfig
from harness.system.secrets import with_secrets
from harness.system.terminal import say
from harness.tracking import MlflowTracker, StoreError, open_tracker, store_uri
from harness.tracking.outbox import stores
from harness.tracking.store import connect_to_read, link


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (StoreError, OSError) as error:
        say(f"error: {error}", error=True)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.tracking",
        description="Send results that wait, close runs of processes that died, show the store.",
    )
    commands = parser.add_subparsers(required=True)
    push = commands.add_parser("push", help="send what waits, each result to its store")
    push.set_defaults(run=_push)
    push.add_argument("--uri", help="only what waits for this MLflow tracking URI")
    close = commands.add_parser("close", help="list the open runs, and close those that are named")
    close.set_defaults(run=_close)
    close.add_argument("ids", metavar="run", nargs="*", help="id of a run whose process has ended")
    ui = commands.add_parser("ui", help="open MLflow's UI on this machine")
    ui.set_defaults(run=_ui)
    ui.add_argument("--port", type=int, default=5000)
    for command in (close, ui):
        command.add_argument("--uri", help="the MLflow tracking URI (default: this folder's store)")
    cache = FeaturesConfig().cache
    for command in (push, close):
        command.add_argument("--cache", default=cache, help="the feature cache, for server locks")
    return parser


def _push(options: argparse.Namespace) -> int:
    left: list[str] = []
    for uri in [options.uri] if options.uri else stores():
        tracker = open_tracker(TrackingConfig(uri=uri), options.cache)
        if tracker.waiting():
            try:
                tracker.recover()
            except StoreError as error:
                say(f"error: {error}", error=True)
        left += tracker.waiting()
    say(*left or ["nothing is waiting"], error=True)
    return 1 if left else 0


def _close(options: argparse.Namespace) -> int:
    uri = store_uri(options.uri)
    connect_to_read(uri)
    tracker = open_tracker(TrackingConfig(uri=uri), options.cache)
    assert isinstance(tracker, MlflowTracker)  # noqa: S101 - by default
    states = tracker.close(options.ids)
    lines = [f"{run_id} {state}" for run_id, state in states.items()]
    say(*(lines or ["no run is open"]))
    left = [run_id for run_id in options.ids if not states.get(run_id, "").startswith("closed")]
    for run_id in left:
        say(f"error: {run_id} must be the id of an open run whose process has ended", error=True)
    return 1 if left else 0


def _check_free(port: int) -> None:
    try:
        if port not in range(65536):
            raise OSError(errno.EINVAL, "there is no such port")
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        rule = f"--port must be a free port of this machine, got {port} ({error.strerror})"
        raise StoreError(f"{rule}: another one is chosen with `make ui PORT=5001`") from None


def _ui(options: argparse.Namespace) -> int:
    """Print the links, then become the server, which does not return."""
    uri, server = store_uri(options.uri), f"http://127.0.0.1:{options.port}"
    _check_free(options.port)
    for experiment in connect_to_read(uri).search_experiments():
        if experiment.name != "Default":
            say(f"{experiment.name}: {link(server, experiment.experiment_id)}")
    command = [sys.executable, "-m", "mlflow", "ui"]
    os.environ["MLFLOW_BACKEND_STORE_URI"] = with_secrets(uri)  # not where `ps` shows it
    # Seven processes, a quarter of a GB each, that would wait for work of other kinds.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    sys.stdout.flush()
    return os.execv(command[0], [*command, "--host", "127.0.0.1", "--port", str(options.port)])  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
