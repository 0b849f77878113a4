"""How many instances are in which state, without reading them all."""


def up(migrator, db):
    db.execute_sql("CREATE INDEX instance_not_indexed ON instance (state) WHERE state <> 'indexed'")
