//! ○ Connections to endpoints: opened ([`connect`]), kept ([`idle`]), leased for one request
//! ([`lease`]), waited for ([`line`]), opened before they are needed ([`warm`]). What one worker
//! has of all this is its [`outbound`] side, which knows nothing of requests.

pub mod connect;
pub mod idle;
pub mod lease;
pub mod line;
pub mod outbound;
pub mod warm;
