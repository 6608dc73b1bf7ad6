"""The policies that peers route by, one file each, by their published formulas: what `adaptive` is compared with."""
