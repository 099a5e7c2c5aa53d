//! ○ Connections to endpoints: opened ([`connect`]), kept ([`idle`]), leased for one request
//! ([`lease`]), opened before they are needed ([`warm`]).

pub mod connect;
pub mod idle;
pub mod lease;
pub mod warm;
