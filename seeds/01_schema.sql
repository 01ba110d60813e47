-- The demo table. Plain SQL without psql commands: it also runs from docker's
-- initdb directory and as one multi-statement query through a driver.

CREATE TABLE IF NOT EXISTS users (
    id                bigint PRIMARY KEY,
    name              varchar(255),
    email             varchar(255) UNIQUE,
    signup_date       timestamptz,
    country_code      char(2),
    subscription_tier varchar(50),
    lifetime_value    numeric(10, 2)
);

CREATE INDEX IF NOT EXISTS users_country_code_idx ON users (country_code);
CREATE INDEX IF NOT EXISTS users_subscription_tier_idx ON users (subscription_tier);
CREATE INDEX IF NOT EXISTS users_lifetime_value_idx ON users (lifetime_value);
