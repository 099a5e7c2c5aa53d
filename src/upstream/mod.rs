//! ○ Connections to endpoints: opened ([`connect`]), kept idle, leased for one request.

pub mod connect;
