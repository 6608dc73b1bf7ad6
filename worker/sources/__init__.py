"""Adapters and models from elsewhere: a job of the kind ``pull`` (`job.py`) asks one of `hub.py`, `modelscope.py`,
`s3.py`, `https.py` what there is, fetches what is wanted of it (`selection.py`), checks it and puts it into the store
(`store.py`). `egress.py` decides whom that process may connect to."""
