"""What an answer may be, byte by byte."""
