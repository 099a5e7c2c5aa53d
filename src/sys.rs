//! ○ The system calls that need `unsafe`, each with the reason; everything else goes through rustix
//! and socket2.
