"""What the files of a data set hold, and what is wrong with it: one pass over all of them, statistics, verdicts."""
