-- The demo table. Plain SQL without psql commands: it also runs as one multi-statement query through a driver.
-- Its keys and indexes come with 03_order.sql: rows go in many times as fast while there are none.

CREATE TABLE IF NOT EXISTS users (
    id                bigint NOT NULL,
    name              varchar(255),
    email             varchar(255),
    signup_date       timestamptz,
    country_code      char(2),
    subscription_tier varchar(50),
    lifetime_value    numeric(10, 2)
);
