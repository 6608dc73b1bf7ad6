"""A job (a download, a training …) is a folder: what is to be done, and what its process has said of it so far.

The file `SPEC` is written before the start: an object with ``kind`` and ``arguments``. The process appends what it says
to `LINES`, an object a line with one key of `Said`; the last line of one that has ended is a ``result`` or an
``error``, and one whose process is gone without either was killed. Files and no pipes: they outlive whoever started
the job, and nobody has to read for it to go on.
"""
