"""Rules of HTTP as pure functions: no I/O, no clock, no asyncio."""
