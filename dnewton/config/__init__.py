"""The YAML schema and how it is read."""
