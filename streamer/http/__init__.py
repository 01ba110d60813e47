"""The HTTP server: routes, downloads, the API in JSON, and sockets. No module here uses SQL."""
