"""Who asks, and by what they show that they are it. Pure but for the files and sockets that say so."""
