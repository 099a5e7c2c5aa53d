//! ○ The admin server: `/livez /readyz /metrics /api/v1/…`, over TCP and a unix socket.

pub mod ready;
pub mod view;
