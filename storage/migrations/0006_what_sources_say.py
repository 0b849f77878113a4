"""What the sources of series say of them, and the verdict that a series is complete."""

STATEMENTS = (
    "ALTER TABLE series ADD COLUMN completeness TEXT",
    """
    CREATE TABLE procedure_step (sop_instance_uid TEXT NOT NULL PRIMARY KEY,
    calling_ae TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, changed_at REAL NOT NULL)
    """,
    "CREATE INDEX procedurestep_changed_at ON procedure_step (changed_at)",
    """
    CREATE TABLE performed_object (procedure_step_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL, sop_instance_uid TEXT NOT NULL,
    PRIMARY KEY (procedure_step_uid, sop_instance_uid),
    FOREIGN KEY (procedure_step_uid) REFERENCES procedure_step (sop_instance_uid))
    """,
    "CREATE INDEX performedobject_procedure_step_uid ON performed_object (procedure_step_uid)",
    "CREATE INDEX performedobject_series_instance_uid ON performed_object (series_instance_uid)",
    """
    CREATE TABLE source_count (study_instance_uid TEXT NOT NULL PRIMARY KEY, source TEXT NOT NULL,
    asked INTEGER NOT NULL, asked_of REAL NOT NULL, not_before REAL NOT NULL, instances INTEGER,
    by_series TEXT NOT NULL, reason TEXT)
    """,
)


def up(migrator, db):
    for statement in STATEMENTS:
        db.execute_sql(statement)
