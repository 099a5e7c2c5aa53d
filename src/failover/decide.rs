//! ● Which pool should serve, for one moment.
