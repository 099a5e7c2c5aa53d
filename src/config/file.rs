//! ● The shape of the YAML file (private to this folder).
