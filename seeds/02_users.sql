-- Fills users with the rows seed.first to seed.rows, by default 1 to 10000000:
--
--     PGOPTIONS='-c seed.rows=1000' psql -f seeds/02_users.sql
--
-- Every value is a pure function of the row number n, in exact integer
-- arithmetic: a table filled in batches equals one filled at once, and
-- tests/seeds.py computes the same rows without a database. Change both or none.
--
-- * A round of the mixer folds the high bits of x into the low ones, multiplies
--   by an odd number and keeps 31 bits, so that no product exceeds a bigint. The
--   values come from rounds 2, 3 and 4, hence depend neither on each other nor
--   on the physical order. (x * size) >> 31 scales x to 0 .. size - 1.
-- * One row in a hundred (n % 100 = 7) is nasty: what CSV writers and readers
--   get wrong. Its values come from lists whose lengths divide 40, hence 40
--   variants, k % 40; variant 0 is NULL in every column but id.
-- * Rows go in by ascending n, but PostgreSQL puts a short row into the gap that a
--   long one left a few pages before: only ORDER BY id gives the exact order.
-- * OFFSET 0 keeps the planner from copying x into each of its uses, and
--   generate_series in the select list streams where FROM would spool to disk.

SET client_encoding = 'UTF8';

INSERT INTO users (
    id, name, email, signup_date, country_code, subscription_tier, lifetime_value
)
WITH ordinary AS (
    SELECT
        ARRAY[
            'Emma', 'Noah', 'Zoë', 'Liam', 'Søren', 'Mia', 'José', 'Ava', 'Lucas', 'Chloé',
            'Ethan', 'Yuki', 'Oliver', 'Jürgen', 'Sofia', 'Mateo', 'Anaïs', 'James', 'Łukasz',
            'Grace', 'Arjun', 'Hannah', 'Björn', 'Priya', 'Daniel', 'Inês', 'Omar', 'Ella',
            'Дмитрий', 'Ruby', 'Hugo', 'Leïla', 'Samuel', '美咲', 'Nora', 'Ravi', 'Alice'
        ] AS first_names,
        ARRAY[
            'Smith', 'Müller', 'Tanaka', 'Silva', 'Martin', 'Sharma', 'Jones', 'García',
            'Dubois', 'Weber', 'Brown', 'Nguyễn', 'Santos', 'Patel', 'Schmidt', 'Taylor',
            'Lefèvre', 'Sato', 'Wilson', 'Gonçalves', 'Singh', 'Fischer', 'Moreau', 'Davies',
            'Suzuki', 'Costa', 'Wójcik', 'Evans', 'Bernard', 'Gupta', 'Schröder', 'Miller',
            'Oliveira', 'Иванов', 'Walker', 'Petit', 'Becker', '山田', 'Kumar', 'Roberts', 'Åberg'
        ] AS last_names,
        ARRAY['US', 'DE', 'FR', 'GB', 'IN', 'JP', 'BR'] AS countries,
        ARRAY[
            'free', 'free', 'free', 'free', 'free', 'free',
            'free', 'free', 'free', 'free', 'free', 'free',
            'basic', 'basic', 'basic', 'basic', 'basic',
            'premium', 'premium',
            'enterprise'
        ] AS tiers,
        ARRAY[
            0, 0, 0, 0, 0, 0, 0, 0,
            500000, 250000, 125000, 62500, 31250, 15625, 1, 999999
        ] AS microseconds
),
nasty AS (
    SELECT
        ARRAY[
            NULL, '', 'Smith, John', ',', 'Dwayne "The Rock" Johnson', '"quoted"', '"', '""',
            E'line\nfeed', E'carriage\rreturn', E'both\r\nof them', E'\n', E'tab\tstop',
            ' leading', 'trailing ', ' ', 'O''Brien', 'semi;colon', 'pi|pe', '=1+1', '+1', '-1',
            '@SUM(A1)', '\.', '\N', '\n', 'back\slash', 'at the end\', 'NULL', NULL,
            'Ødegård', '北京', 'محمد', E'e\u0301', E'\U0001F600',
            E'\U0001F469\u200D\U0001F4BB', E'\u00A0', E'\uFEFFmark', E'two\u2028lines',
            repeat('ñ', 255)
        ] AS names,
        ARRAY[
            NULL, ',', '"', '""', '''', ' ', E'\t', E'\n', E'\r', E'\r\n',
            ';', '|', '=', '+', '-', '@', '\', '\.', 'ü', E'\U0001F600'
        ] AS email_ends,
        ARRAY[
            NULL, 'infinity', '-infinity', '0044-03-15 12:00:00+00 BC',
            '10000-01-01 00:00:00+00', '2024-02-29 23:59:59.999999+00',
            '1970-01-01 00:00:00+00', '1969-12-31 23:59:59.9+00'
        ]::timestamptz[] AS signup_dates,
        ARRAY[NULL, 'X', '', '"', ',"', 'é', E'\r\n', '\.'] AS countries,
        ARRAY[
            NULL, '', ' ', 'free,basic', '"premium"', E'enter\nprise', '\.', 'básico', '-basic',
            repeat('t', 50)
        ] AS tiers,
        ARRAY[
            NULL, 0, 0.01, -0.01, 0.1, -0.1, 0.99, 1, -1, 1.01,
            9.9, 9.99, 10, -10, 10.01, 99.9, 99.99, 100, -100, 100.01,
            999.9, 999.99, 1000, -1000, 1000.01, 9989, 9989.9, 9989.99, -9990, -9999.99,
            NULL, -10000, -99999, -100000, -999999.99, -1000000, -9999999.99, -10000000,
            -99999999.99, 99999999.99
        ] AS lifetime_values
),
numbers AS (
    SELECT generate_series(
        coalesce(nullif(current_setting('seed.first', true), ''), '1')::bigint,
        coalesce(nullif(current_setting('seed.rows', true), ''), '10000000')::bigint
    ) AS n
),
round1 AS (SELECT n, ((n # (n >> 16)) * 2654435769) & 2147483647 AS x1 FROM numbers OFFSET 0),
round2 AS (SELECT n, ((x1 # (x1 >> 16)) * 2246822519) & 2147483647 AS x2 FROM round1 OFFSET 0),
round3 AS (SELECT n, x2, ((x2 # (x2 >> 16)) * 3266489917) & 2147483647 AS x3 FROM round2 OFFSET 0),
round4 AS (
    SELECT n, x2, x3, ((x3 # (x3 >> 16)) * 2869860233) & 2147483647 AS x4 FROM round3 OFFSET 0
),
draws AS (
    SELECT
        n,
        n % 100 = 7 AS is_nasty,
        n / 100 AS k,
        (x2 * 1000000) >> 31 AS cents,
        (x3 * 140) >> 31 AS segment, -- 7 countries x 20 tiers
        (x4 * 220924800) >> 31 AS second -- of 2019 to 2025
    FROM round4
)
SELECT
    n,
    CASE
        WHEN is_nasty THEN nasty.names[1 + k % 40]
        ELSE first_names[1 + n % 37] || ' ' || last_names[1 + n % 41]
    END,
    CASE
        WHEN is_nasty THEN email_ends[1 + k % 20] || n || email_ends[1 + k % 20]
        ELSE 'user' || n || '@example.com'
    END,
    CASE
        WHEN is_nasty THEN signup_dates[1 + k % 8]
        ELSE timestamptz '2019-01-01 00:00:00+00'
            + (second * 1000000 + microseconds[1 + n % 16]) * interval '1 microsecond'
    END,
    CASE WHEN is_nasty THEN nasty.countries[1 + k % 8] ELSE ordinary.countries[1 + segment / 20] END,
    CASE WHEN is_nasty THEN nasty.tiers[1 + k % 10] ELSE ordinary.tiers[1 + segment % 20] END,
    CASE WHEN is_nasty THEN lifetime_values[1 + k % 40] ELSE cents * 0.01 END
FROM draws CROSS JOIN ordinary CROSS JOIN nasty;
