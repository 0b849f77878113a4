"""Where versions of models stand, and which jobs run beside the live ones."""

STATEMENTS = (
    """
    CREATE TABLE model_version (reference TEXT NOT NULL PRIMARY KEY, digest TEXT NOT NULL,
    state TEXT NOT NULL, reason TEXT, rank INTEGER NOT NULL, changed_at REAL NOT NULL)
    """,
    "ALTER TABLE job ADD COLUMN mode TEXT NOT NULL DEFAULT 'live'",
)


def up(migrator, db):
    for statement in STATEMENTS:
        db.execute_sql(statement)
