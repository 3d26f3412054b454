"""Comparing ways of training: what is run (`grid`), what can be said of the times (`statistics`), and the tables (`table`)."""
