"""One file an engine. Adding one is adding a module here with an ``ENGINE``; nothing lists them."""
