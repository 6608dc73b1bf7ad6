"""Requests that are not plainly HTTP/1.1, a file for each part of a request that is wrong: `MALFORMED`, by family."""
