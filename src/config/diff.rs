//! ● Two configurations → what a reload would change, in order.
