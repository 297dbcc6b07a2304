"""From samples to windows: clean, put on the model's clock, fill holes, cut windows, attach labels.

One file a stage, all vectorised over blocks; ``stream`` puts them together.
"""
