//! ○ One task an endpoint: asks it how it is, never late, one probe in flight.
