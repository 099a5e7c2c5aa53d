//! ○ (being built)
