-- Puts the rows into the order of their numbers, whatever gaps the inserts were squeezed into, adds what finds them, and
-- tells the planner what is there. After it an export without a filter is in the order of id. It may be run again.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'users'::regclass AND contype = 'p') THEN
        ALTER TABLE users ADD PRIMARY KEY (id);
    END IF;
END $$;

CLUSTER users USING users_pkey;

CREATE UNIQUE INDEX IF NOT EXISTS users_email_key ON users (email);
CREATE INDEX IF NOT EXISTS users_country_code_idx ON users (country_code);
CREATE INDEX IF NOT EXISTS users_subscription_tier_idx ON users (subscription_tier);
CREATE INDEX IF NOT EXISTS users_lifetime_value_idx ON users (lifetime_value);

ANALYZE users;
