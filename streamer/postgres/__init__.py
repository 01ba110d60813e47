"""PostgreSQL connections, shared by all packages that use them: parameters, pools, failures and quoting."""
