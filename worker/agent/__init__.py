"""One node's agent: starts, watches and ends workers there for a supervisor on another machine."""
