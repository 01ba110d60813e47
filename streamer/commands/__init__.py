"""The verbs of a user: pull, export, ls, status, cancel, rm. They know the client, never the server.

A shell waits for `streamer --help` and for every key of a completion, so these files import click and no more; the
client, and what draws, is imported where it is used.
"""
