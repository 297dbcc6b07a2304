"""Marram's cloud side: the aggregator, its releases and the model workshop."""
