"""From tracked runs to tables: a function of the stored records, and of nothing else.

`docs/tables.md` describes it. MLflow is imported only by commands that read runs.
"""
