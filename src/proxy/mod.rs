//! ○ One request's life, and the workers in which requests live.

pub mod worker;
