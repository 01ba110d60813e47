"""Sockets: the listener, the senders of response bodies, backpressure, send timeouts."""
