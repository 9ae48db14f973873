//! The PHP package's lists, served by several servers at once.
