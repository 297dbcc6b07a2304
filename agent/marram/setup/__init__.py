"""The first start of a device: what it is and has, asked or given, becomes its YAML (``marram setup``)."""
