//! ○ The command line: one file a command family.
pub mod check;
pub mod control;
pub mod demo;
pub mod load;
pub(crate) fn raise_descriptor_limit() {}
