//! ○ Connections to endpoints: opened ([`connect`]), kept ([`idle`]), leased for one request
//! ([`lease`]).

pub mod connect;
pub mod idle;
pub mod lease;
