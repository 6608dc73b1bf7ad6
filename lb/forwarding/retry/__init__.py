"""What follows when an attempt has come to nothing: may it be made again, where, how often."""
