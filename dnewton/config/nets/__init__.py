"""The YAML files of the shipped nets."""
