"""Which relations and columns may be exported, and what a request may say of them."""
