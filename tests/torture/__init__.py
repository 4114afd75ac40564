"""Everything dies, all the time, while random transactions run; then the broker's content is compared with the truth.

`make torture SECONDS=600 SEED=7 TARGET=kafka` runs one. What happens when (to the bridge, the broker, PostgreSQL and the
connections) and what the transactions do follow from the seed; how they interleave does not.
"""
