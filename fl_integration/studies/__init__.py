"""Studies that people can run: data, a model, a loop and a report."""
