//! ○ Every metric, its help and labels in one list; rendered for Prometheus from the Table.
