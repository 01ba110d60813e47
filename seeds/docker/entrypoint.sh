#!/bin/bash
# Stands before the entrypoint of the postgres image, which takes a database folder that has begun to exist for a
# finished one. A first start that was interrupted would then leave a database without users for ever; here it begins
# anew. `unfinished` is there from before the folder is made until seed.sh is through, hence before anybody could reach
# that database over the network: nothing is deleted that could be missed.
set -e
unfinished=/var/lib/postgresql/unfinished
if [ -e "$unfinished" ]; then
    rm -rf "${PGDATA:?}"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    install -o postgres -m 600 /dev/null "$unfinished"
fi
exec docker-entrypoint.sh "$@"
