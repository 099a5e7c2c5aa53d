//! ● The JSON a status is made of, read from a Table.
