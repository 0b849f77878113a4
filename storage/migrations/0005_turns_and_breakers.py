"""Whose turn it is among jobs, and models that are left in peace."""

STATEMENTS = (
    "ALTER TABLE job ADD COLUMN priority TEXT NOT NULL DEFAULT 'routine'",
    "ALTER TABLE job ADD COLUMN source TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE job ADD COLUMN queued_at REAL NOT NULL DEFAULT 0",
    "UPDATE job SET queued_at = created_at",
    "CREATE INDEX job_source_started_at ON job (source, started_at)",
    "CREATE INDEX job_priority_started_at ON job (priority, started_at)",
    """
    CREATE TABLE model_breaker (name TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, reason TEXT,
    failures INTEGER NOT NULL, retry_at REAL NOT NULL)
    """,
)


def up(migrator, db):
    for statement in STATEMENTS:
        db.execute_sql(statement)
