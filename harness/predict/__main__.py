"""The command line of a fitted job: `python -m harness.predict model=RUN images=FOLDER`."""

from __future__ import annotations

import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from harness.predict.command import CSV, JSON_LINES, Settings, run
from harness.system.arguments import read_value
from harness.system.signals import interruptible
from harness.system.terminal import LineFormatter, one_line, say
from harness.tracking.store import StoreError

USAGE = """\
python -m harness.predict model=RUN_ID images=FOLDER [KEY=VALUE ...]
  model=RUN_ID            or runs:/RUN_ID/model, or the folder of a saved model
  images=FOLDER           or an image file; several: images=A images=B
  out=predictions         where predictions.csv, predictions.jsonl, heatmaps/ and maps/ go
  quantile=0.95           of held-out normal scores, the threshold
  heatmaps=true           draw anomaly maps over the images
  contours=false          outline what exceeds the maps of normal images
  maps=false              write anomaly maps as arrays, .npy
  engine=NAME device=cpu  in place of those of training
  cache=cache             folder that keeps the translated network
  tracking.uri=URI        where the run is; else MLFLOW_TRACKING_URI, else runs/mlflow.db
  trusted=MODULE:NAME,... your own models and backbones, which are imported
"""
_FIELDS = {field.name.replace("_", "."): field for field in fields(Settings)}


def main(arguments: list[str]) -> int:
    """Run the command; return 0 if every image has a score, 1 if some have none, 2 if misused."""
    if arguments in (["--help"], ["-h"]):
        say(*USAGE.splitlines())
        return 0
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    try:
        settings = _settings(arguments)
        with interruptible(last=True), bar:
            handler = logging.StreamHandler()  # while the bar is there, above it
            handler.setFormatter(LineFormatter("%(message)s"))
            logging.basicConfig(handlers=[handler])
            task = bar.add_task("scoring", total=None)
            threshold, verdicts = run(
                settings, watch=lambda n, total: bar.update(task, completed=n, total=total)
            )
    except (ValueError, OSError, StoreError) as error:
        message = one_line(error) if isinstance(error, OSError) else str(error)
        say(f"error: {message}", error=True)
        return 2
    say(
        f"{verdicts['anomalous']} anomalous, {verdicts['normal']} normal, {verdicts[None]} failed",
        f"threshold {threshold!r}, the {settings.quantile:g} quantile of held-out scores",
        *(str(settings.out / name) for name in (CSV, JSON_LINES)),
    )
    return 1 if verdicts[None] else 0


def _settings(arguments: list[str]) -> Settings:
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in _FIELDS:
            raise ValueError(
                f"'{argument}' must be KEY=VALUE with a key of {', '.join(_FIELDS)}; see --help"
            )
        name, kind = _FIELDS[key].name, str(_FIELDS[key].type)
        if key == "images":
            values[name] = (*values.get(name, ()), Path(value))
        else:
            values[name] = read_value(key, value, kind)
    for key in ("model", "images"):
        if key not in values:
            raise ValueError(f"{key}= is missing; see --help")
    return Settings(**values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
