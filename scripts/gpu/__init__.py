"""What only a GPU can show: `make gpu`, or `python -m scripts.gpu check bench` (docs/benchmarks.md says how).

`__main__`, `environment`, `results` and `report` need nothing but Python: they run before anything is installed.
"""
