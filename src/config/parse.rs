//! ● The YAML crate, hidden: the one file that names it.
