//! Runnable programs: see the `[[example]]` entries.
