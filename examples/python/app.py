"""A WSGI application without a framework."""

import os


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"Python as user {os.getuid()}\n".encode()]
