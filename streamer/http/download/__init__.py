"""Downloads: content negotiation, then delivery."""
