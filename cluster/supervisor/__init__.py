"""One task that owns the state, and what it is put together from.

One module more than a folder should have: each is a part of that one process, and all meet in `assembly`.
"""
