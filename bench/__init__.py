"""The benchmark: Postern and its peers at the same work, side by side in one run.

`python -m bench` measures CPU microseconds a request, requests a second, latency and memory, and writes a
table, a JSON file and a chart into `bench/results/`.  What is compared and how is told in docs/BENCHMARK.md.
"""
