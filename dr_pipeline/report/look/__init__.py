"""The page of a dataset: what its manifest counts, and a browser of a bounded number of its samples.

`look.look` puts the page together. The table of shards is read whole, page by page; of the tables of samples, of the
reports and of the shards a seeded choice is read, which a million shards make no larger than a hundred.
"""
