"""Comparisons of training methods: the runs (`grid`), statistics of their times (`statistics`), and the tables (`table`)."""
