"""The HTTP face. aiohttp lives here and nowhere below; SQL is never seen from here."""
