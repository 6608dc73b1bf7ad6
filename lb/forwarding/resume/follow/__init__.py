"""An answer that is made again whole, of which a client gets only what it has not had before."""
