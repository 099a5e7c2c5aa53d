//! ○ (being built)
pub mod load;
