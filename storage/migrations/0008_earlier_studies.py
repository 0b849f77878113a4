"""Whose a study is and when it was taken, so that the next one finds it."""

STATEMENTS = (
    "ALTER TABLE study ADD COLUMN patient TEXT",
    "ALTER TABLE study ADD COLUMN taken_at TEXT",
    "CREATE INDEX study_patient_taken_at ON study (patient, taken_at)",
)


def up(migrator, db):
    for statement in STATEMENTS:
        db.execute_sql(statement)
