"""Rules of HTTP and CSV as pure functions: no I/O, no clock, no asyncio."""
