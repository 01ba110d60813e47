-- Inserts and claims are made one after the other. READ COMMITTED, so that the statements after the lock see what was
-- committed before it. A server that is paused in its transaction loses the lock with its session.
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL idle_in_transaction_session_timeout = '5s';
SELECT pg_advisory_xact_lock(495874893169) -- a fixed number that no other program is likely to use
