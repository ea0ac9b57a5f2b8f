//! What happened, as one number: two runs with the same trace went the same way.

use std::{
    cell::{Cell, RefCell},
    fmt::{Arguments, Write as _},
};

use sha2::{Digest as _, Sha256};

#[derive(Default)]
pub(crate) struct Trace {
    digest: RefCell<Sha256>,
    lines: Cell<u64>,
    /// What was noted, if it is to be kept.
    kept: RefCell<Option<String>>,
}

impl Trace {
    /// Keeps the lines from now on.
    pub(crate) fn keep(&self) {
        self.kept.borrow_mut().get_or_insert_default();
    }

    pub(crate) fn note(&self, now_ms: u64, what: Arguments<'_>) {
        let line = format!("{now_ms} {what}\n");
        self.digest.borrow_mut().update(&line);
        self.lines.set(self.lines.get() + 1);
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            kept.push_str(&line);
        }
    }

    /// Whether the lines are kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.borrow().is_some()
    }

    /// Notes what only a reader of the lines wants to know: it is no part of the digest.
    pub(crate) fn explain(&self, now_ms: u64, what: Arguments<'_>) {
        if let Some(kept) = &mut *self.kept.borrow_mut() {
            let _ = writeln!(kept, "{now_ms}   {what}");
        }
    }

    pub(crate) fn kept(&self) -> String {
        self.kept.borrow().clone().unwrap_or_default()
    }

    /// The digest of all that was noted, in hexadecimal.
    pub(crate) fn digest(&self) -> String {
        let digest = self.digest.borrow().clone().finalize();
        digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}
