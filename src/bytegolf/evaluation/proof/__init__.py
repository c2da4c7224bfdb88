"""The conditions under which a score counts, each tested on the very parts that made the score."""
