"""``sluice ui``: a live page over the bus and over recordings.  It only reads."""
