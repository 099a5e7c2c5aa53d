//! ● When an endpoint is probed next.
