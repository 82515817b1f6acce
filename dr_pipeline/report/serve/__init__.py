"""The page of a dataset from a server on this machine: samples, pictures and searches on request.

`server.serve` answers; `gate` says to whom. `walk` goes through the samples, `extremes` through the tables of them, and
`shelf` keeps what was asked for.
"""
