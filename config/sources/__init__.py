"""Where settings come from, each source by itself; `config.settings` puts them together."""
