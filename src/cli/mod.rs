//! ○ (being built)

pub mod check;
pub mod load;
