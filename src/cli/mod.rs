//! ○ (being built)
pub mod control;
pub mod load;
