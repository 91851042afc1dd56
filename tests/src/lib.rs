//! Harness for scenarios with real parts.
