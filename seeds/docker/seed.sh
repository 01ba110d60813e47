#!/bin/bash
# The init script of the postgres image: SEED_ROWS users.
#
# * With wal_level=minimal a table that is made or rewritten in a transaction is written past the WAL and synced at its
#   end. So the rows go in in the transaction that makes their table, and all indexes are made in the one that puts the
#   rows into their order.
# * These are two transactions, because CLUSTER marks as frozen what was committed before it: the first export then
#   has nothing to write.
# * What speeds up the making of indexes is set for these sessions only.
set -e
seed() {
    PGOPTIONS="-c seed.rows=$SEED_ROWS -c maintenance_work_mem=512MB -c max_parallel_maintenance_workers=4" \
        psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --single-transaction \
        --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"
}
seed --file /seeds/01_schema.sql --file /seeds/02_users.sql
seed --file /seeds/03_order.sql
rm /var/lib/postgresql/unfinished
