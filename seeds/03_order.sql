-- Puts the rows into the order of their numbers, whatever gaps the inserts were squeezed into, and tells the planner
-- what is there. After it an export without a filter is in the order of id.
CLUSTER users USING users_pkey;
ANALYZE users;
