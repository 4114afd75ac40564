"""`make bench`: how fast it is, in ratios taken side by side in one run."""
