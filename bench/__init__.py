"""What the cryptography costs: primitives, whole rounds, and peers measured beside them in the same run.

`python -m bench` measures, prints one table for each question and draws six pictures. Ratios are the claims:
contenders take turns in one process (`sampling.Laps`) and their minima are compared, so that a busy neighbour
or a faster machine moves both sides. Every figure is read from the JSON that pytest-benchmark wrote in that
run; what others published stands in one file (`published`) and is marked wherever it is shown.
"""
