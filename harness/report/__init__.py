"""From tracked runs to tables: a function of the stored records, and of nothing else.

Each table is declared by one `conf/experiment/<name>.yaml` and shown at one marker in README.md.
`python -m harness.report` reads the runs, writes `results/` and fills the README;
`python -m harness.report --check` says whether the two agree. Nothing here imports torch or
hydra; MLflow is touched by the command that reads runs alone.
"""
