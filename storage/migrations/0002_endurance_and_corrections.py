"""What destinations take and whether they answer, inputs by role, counts, rejections."""

STATEMENTS = (
    """
    CREATE TABLE destination (name TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, reason TEXT,
    failures INTEGER NOT NULL, retry_at REAL NOT NULL)
    """,
    """
    CREATE TABLE destination_kind (destination TEXT NOT NULL, kind TEXT NOT NULL, accepted
    INTEGER NOT NULL, noted_at REAL NOT NULL, PRIMARY KEY (destination, kind))
    """,
    """
    CREATE TABLE rejection (sop_instance_uid TEXT NOT NULL PRIMARY KEY, code TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL, note_uid TEXT NOT NULL, noted_at REAL NOT NULL)
    """,
    "ALTER TABLE delivery ADD COLUMN wanted TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE delivery ADD COLUMN fell_back TEXT",
    "ALTER TABLE delivery ADD COLUMN failures INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE delivery ADD COLUMN since REAL NOT NULL DEFAULT 0",
    """
    UPDATE delivery SET since = created_at,
    wanted = (SELECT kind FROM result WHERE result.id = delivery.result_id)
    """,
    "ALTER TABLE job ADD COLUMN withdrawal TEXT",
    "CREATE INDEX job_withdrawal ON job (id) WHERE withdrawal IS NOT NULL",
    "UPDATE job SET input_instances = json_object('image', json(input_instances))",
    "ALTER TABLE series ADD COLUMN announced TEXT",
    "ALTER TABLE study ADD COLUMN explanation TEXT",
)


def up(migrator, db):
    for statement in STATEMENTS:
        db.execute_sql(statement)
