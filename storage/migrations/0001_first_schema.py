"""The first schema."""

STATEMENTS = (
    """
    CREATE TABLE node_fact (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)
    """,
    """
    CREATE TABLE association (id INTEGER NOT NULL PRIMARY KEY, calling_ae TEXT NOT NULL,
    called_ae TEXT NOT NULL, address TEXT NOT NULL, receiver TEXT NOT NULL, opened_at REAL
    NOT NULL, closed_at REAL, outcome TEXT)
    """,
    """
    CREATE TABLE instance (id INTEGER NOT NULL PRIMARY KEY, sop_instance_uid TEXT NOT NULL,
    revision INTEGER NOT NULL, sop_class_uid TEXT NOT NULL, transfer_syntax_uid TEXT NOT
    NULL, study_instance_uid TEXT NOT NULL, series_instance_uid TEXT NOT NULL, digest TEXT
    NOT NULL, size INTEGER NOT NULL, object_key TEXT NOT NULL, association_id INTEGER NOT
    NULL, received_at REAL NOT NULL, state TEXT NOT NULL, reason TEXT, covered_by INTEGER,
    FOREIGN KEY (association_id) REFERENCES association (id))
    """,
    """
    CREATE INDEX instance_series_instance_uid_state ON instance (series_instance_uid, state)
    """,
    """
    CREATE UNIQUE INDEX instance_object_key ON instance (object_key)
    """,
    """
    CREATE INDEX instance_association_id ON instance (association_id)
    """,
    """
    CREATE UNIQUE INDEX instance_sop_instance_uid_digest ON instance (sop_instance_uid,
    digest)
    """,
    """
    CREATE TABLE study (study_instance_uid TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL,
    reason TEXT, last_object_at REAL NOT NULL)
    """,
    """
    CREATE TABLE series (series_instance_uid TEXT NOT NULL PRIMARY KEY, study_instance_uid
    TEXT NOT NULL, modality TEXT NOT NULL, sop_class_uid TEXT NOT NULL, state TEXT NOT NULL,
    reason TEXT, instances INTEGER NOT NULL, first_object_at REAL NOT NULL, last_object_at
    REAL NOT NULL, single_image INTEGER NOT NULL, forced INTEGER NOT NULL, explanation TEXT,
    FOREIGN KEY (study_instance_uid) REFERENCES study (study_instance_uid))
    """,
    """
    CREATE INDEX series_study_instance_uid ON series (study_instance_uid)
    """,
    """
    CREATE TABLE job (id INTEGER NOT NULL PRIMARY KEY, identity TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL, subject TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL, route TEXT NOT
    NULL, model TEXT NOT NULL, model_digest TEXT NOT NULL, send_to TEXT NOT NULL,
    input_instances TEXT NOT NULL, run_number INTEGER NOT NULL, state TEXT NOT NULL, reason
    TEXT, attempt INTEGER NOT NULL, failures INTEGER NOT NULL,
    crashes INTEGER NOT NULL, owner TEXT, lease_until REAL,
    not_before REAL NOT NULL, created_at REAL NOT NULL, started_at REAL, finished_at REAL,
    seconds TEXT, FOREIGN KEY (series_instance_uid) REFERENCES series (series_instance_uid))
    """,
    """
    CREATE UNIQUE INDEX job_identity ON job (identity)
    """,
    """
    CREATE INDEX job_subject ON job (subject)
    """,
    """
    CREATE INDEX job_series_instance_uid ON job (series_instance_uid)
    """,
    """
    CREATE TABLE result (id INTEGER NOT NULL PRIMARY KEY, job_id INTEGER NOT NULL, kind TEXT
    NOT NULL, sop_class_uid TEXT NOT NULL, sop_instance_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
    object_key TEXT NOT NULL, created_at REAL NOT NULL, FOREIGN KEY (job_id) REFERENCES job
    (id))
    """,
    """
    CREATE INDEX result_job_id ON result (job_id)
    """,
    """
    CREATE UNIQUE INDEX result_sop_instance_uid ON result (sop_instance_uid)
    """,
    """
    CREATE UNIQUE INDEX result_object_key ON result (object_key)
    """,
    """
    CREATE TABLE delivery (id INTEGER NOT NULL PRIMARY KEY, result_id INTEGER NOT NULL,
    destination TEXT NOT NULL, state TEXT NOT NULL, reason TEXT, status INTEGER, attempt
    INTEGER NOT NULL, begun INTEGER NOT NULL, not_before REAL NOT NULL, created_at REAL NOT
    NULL, finished_at REAL, FOREIGN KEY (result_id) REFERENCES result (id))
    """,
    """
    CREATE INDEX delivery_result_id ON delivery (result_id)
    """,
    """
    CREATE UNIQUE INDEX delivery_result_id_destination ON delivery (result_id, destination)
    """,
    """
    CREATE TABLE series_association (series_instance_uid TEXT NOT NULL, association_id
    INTEGER NOT NULL, PRIMARY KEY (series_instance_uid, association_id), FOREIGN KEY
    (association_id) REFERENCES association (id))
    """,
    """
    CREATE INDEX seriesassociation_association_id ON series_association (association_id)
    """,
    """
    CREATE TABLE audit_event (seq INTEGER NOT NULL PRIMARY KEY, version INTEGER NOT NULL,
    time TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, object TEXT NOT NULL,
    outcome TEXT NOT NULL, detail TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT
    NULL)
    """,
    """
    CREATE INDEX instance_stored ON instance (id) WHERE state = 'stored'
    """,
    """
    CREATE INDEX instance_uncovered ON instance (association_id) WHERE covered_by IS NULL
    """,
    """
    CREATE INDEX association_open ON association (id) WHERE closed_at IS NULL
    """,
    """
    CREATE INDEX study_state_last_object_at ON study (state, last_object_at)
    """,
    """
    CREATE INDEX study_last_object_at ON study (last_object_at)
    """,
    """
    CREATE INDEX series_state_study_instance_uid ON series (state, study_instance_uid)
    """,
    """
    CREATE INDEX job_state_crashes ON job (state, crashes)
    """,
    """
    CREATE INDEX delivery_state_destination ON delivery (state, destination)
    """,
)


def up(migrator, db):
    for statement in STATEMENTS:
        db.execute_sql(statement)
