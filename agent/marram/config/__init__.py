"""Configuration: one YAML file becomes frozen structs, or a list of every mistake with its place.

``load`` is generic and knows nothing of the agent; ``schema`` is the agent's own configuration. Import
from the modules: ``schema`` imports every sensor and output plugin, which the cloud must not.
"""
