"""Downloads: the decision on the response, then its delivery."""
