"""Files of a state directory: who else could change them, room on a full disk, paths as people write them."""
