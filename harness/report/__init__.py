"""From tracked runs to tables: a function of the stored records, and of nothing else.

Each table is declared by one `conf/experiment/<name>.yaml`, and shown at the markers of README.md
and docs/results.md. `python -m harness.report` reads the runs, writes `results/` and fills those
pages; `python -m harness.report --check` says whether they agree. MLflow is
imported only by commands that read runs.
"""
