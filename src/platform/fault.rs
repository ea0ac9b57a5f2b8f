/// Something of ours broke. Logged once where it is answered, shown to clients as a plain 500.
///
/// The text carries ids and causes, never contents of messages, tokens or other secrets.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    what: String,
    /// Whether the same call may succeed when repeated (the actor was evicted, the host restarted).
    pub retriable: bool,
    /// Whether whoever was called has too much to do: nobody repeats the call at once, and the client is told so.
    pub overloaded: bool,
}

impl Fault {
    /// A fault that repeating the call will not mend.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), retriable: false, overloaded: false }
    }

    /// A fault that a repeated call may not meet again.
    pub fn retriable(what: impl Into<String>) -> Self {
        Self { what: what.into(), retriable: true, overloaded: false }
    }

    /// A fault that a call may not meet again a while later, and that repeating it at once would make worse.
    pub fn overloaded(what: impl Into<String>) -> Self {
        Self { what: what.into(), retriable: false, overloaded: true }
    }

    /// Says where the fault was met: `context: what`.
    pub fn within(self, context: &str) -> Self {
        Self { what: format!("{context}: {}", self.what), ..self }
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Fault::new(format!("stored or sent JSON: {error}"))
    }
}
