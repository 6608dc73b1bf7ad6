"""Whether a folder is an adapter that the model can take."""
