"""Ray around the plain classes: one file per kind of actor, and the pools through which the driver sees them."""
