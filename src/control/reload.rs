//! ○ Reload: read, check, bind what is new, swap certificates, publish; all or nothing.
