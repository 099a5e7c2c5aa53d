//! ● A checked configuration, verdicts and serving pools → a table; identities carried over from the last one.
